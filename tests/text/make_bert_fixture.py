"""Writes fixtures/bert.npz: a tiny random BERT and the output of PyTorch's BertModel for a few token ids.

Needs torch and transformers; the tests do not: python tests/text/make_bert_fixture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

OUT = Path(__file__).parent / 'fixtures' / 'bert.npz'
CONFIG = {
  'model_type': 'bert',
  'vocab_size': 40,
  'hidden_size': 16,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'intermediate_size': 24,
  'max_position_embeddings': 20,
  'type_vocab_size': 2,
  'layer_norm_eps': 1e-12,
  'hidden_act': 'gelu',
  'pad_token_id': 0,
}
LENGTHS = (12, 7, 2)


def main():
  rng = np.random.default_rng(0)
  config = transformers.BertConfig(**CONFIG, attn_implementation='eager')
  model = transformers.BertModel(config, add_pooling_layer=False).eval()
  # Larger than any trained weight, so that every part matters: norms, biases, gates in the tails of GELU.
  state = {
    name: torch.tensor(rng.normal(size=tensor.shape).astype(np.float32) * 0.5)
    for name, tensor in sorted(model.state_dict().items())
    if not name.endswith('position_ids')
  }
  model.load_state_dict(state)
  mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
  tokens = np.where(mask, rng.integers(1, CONFIG['vocab_size'], mask.shape), 0)
  with torch.no_grad():
    hidden = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64))).last_hidden_state
  np.savez_compressed(
    OUT,
    config=json.dumps(CONFIG),
    tokens=tokens.astype(np.int32),
    mask=mask,
    hidden=hidden.numpy(),
    **{f'weights/{name}': tensor.numpy() for name, tensor in state.items()},
  )


if __name__ == '__main__':
  main()
