"""Writes fixtures/t5.npz: tiny random T5 encoders and the output of PyTorch's T5EncoderModel for a few token ids.

Needs torch and transformers; the tests do not: python tests/text/make_t5_fixture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

OUT = Path(__file__).parent / 'fixtures' / 't5.npz'
CONFIG = {
  'model_type': 't5',
  'vocab_size': 40,
  'd_model': 16,
  'd_kv': 4,  # three heads of 4 are not the width, as in T5-11B
  'd_ff': 24,
  'num_layers': 3,
  'num_heads': 3,
  'relative_attention_num_buckets': 8,
  'relative_attention_max_distance': 20,  # nearer than the length of the captions
  'layer_norm_epsilon': 1e-6,
  'pad_token_id': 0,
  'eos_token_id': 1,
}
KINDS = ('relu', 'gated-gelu')
LENGTHS = (30, 7, 1)
DISTANCES = np.arange(-300, 301)
BUCKETS = {'num_buckets': 32, 'max_distance': 128}  # every published T5


def main():
  rng = np.random.default_rng(0)
  mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
  tokens = np.where(mask, rng.integers(1, CONFIG['vocab_size'], mask.shape), 0)
  out = {'tokens': tokens.astype(np.int32), 'mask': mask, 'distances': DISTANCES}
  out['buckets'] = T5Attention._relative_position_bucket(torch.tensor(DISTANCES), bidirectional=True, **BUCKETS)
  for kind in KINDS:
    config = CONFIG | {'feed_forward_proj': kind}
    model = transformers.T5EncoderModel(transformers.T5Config(**config, attn_implementation='eager')).eval()
    # Larger than any trained weight, so that every part matters: norms, distances, gates in the tails of GELU.
    state = {
      name: torch.tensor(rng.normal(size=tensor.shape).astype(np.float32) * 0.5)
      for name, tensor in sorted(model.state_dict().items())
      if name != 'encoder.embed_tokens.weight'  # the same as shared.weight
    }
    model.load_state_dict(state | {'encoder.embed_tokens.weight': state['shared.weight']})
    with torch.no_grad():
      hidden = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64))).last_hidden_state
    out |= {f'{kind}/config': json.dumps(config), f'{kind}/hidden': hidden.numpy()}
    out |= {f'{kind}/weights/{name}': tensor.numpy() for name, tensor in state.items()}
  np.savez_compressed(OUT, **out)


if __name__ == '__main__':
  main()
