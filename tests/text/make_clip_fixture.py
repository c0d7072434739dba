"""Writes fixtures/clip.npz: tiny random CLIP text encoders and the output of PyTorch's
CLIPTextModelWithProjection for a few token ids.

Needs torch and transformers; the tests do not: python tests/text/make_clip_fixture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

OUT = Path(__file__).parent / 'fixtures' / 'clip.npz'
CONFIG = {
  'model_type': 'clip_text_model',
  'vocab_size': 40,
  'hidden_size': 16,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'intermediate_size': 24,
  'max_position_embeddings': 20,
  'projection_dim': 12,
  'layer_norm_eps': 1e-5,
  'bos_token_id': 38,
  'pad_token_id': 1,
}
# Activation -> the end token in config.json; 2 means the token with the largest id.
KINDS = {'quick_gelu': 2, 'gelu': 7}
LENGTHS = (12, 7, 2)


def main():
  rng = np.random.default_rng(0)
  mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
  out = {'mask': mask}
  for kind, eos in KINDS.items():
    config = CONFIG | {'hidden_act': kind, 'eos_token_id': eos}
    model = transformers.CLIPTextModelWithProjection(
      transformers.CLIPTextConfig(**config, attn_implementation='eager')
    ).eval()
    # Larger than any trained weight, so that every part matters: norms, biases, gates in the tails of GELU.
    state = {
      name: torch.tensor(rng.normal(size=tensor.shape).astype(np.float32) * 0.5)
      for name, tensor in sorted(model.state_dict().items())
      if not name.endswith('position_ids')
    }
    model.load_state_dict(state)
    end = 39 if eos == 2 else eos  # padding repeats the largest id; elsewhere larger ids occur before the end
    tokens = np.where(mask, rng.integers(8, 39, mask.shape), end if eos == 2 else 0)
    tokens[np.arange(len(tokens)), np.array(LENGTHS) - 1] = end
    tokens[:, 0], tokens[0, 8] = CONFIG['bos_token_id'], end  # where the end token occurs twice, the first is pooled
    with torch.no_grad():
      made = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64)))
    out |= {f'{kind}/config': json.dumps(config), f'{kind}/tokens': tokens.astype(np.int32)}
    out |= {f'{kind}/hidden': made.last_hidden_state.numpy(), f'{kind}/projected': made.text_embeds.numpy()}
    out |= {f'{kind}/weights/{name}': tensor.numpy() for name, tensor in state.items()}
  np.savez_compressed(OUT, **out)


if __name__ == '__main__':
  main()
