"""Writes fixtures/umt5.npz: a tiny random UMT5 encoder, and the output of PyTorch's UMT5EncoderModel for a few tokens.

fixtures/umt5/ gets its weights in half precision, in two files of PyTorch with an index, as large models have them.

Needs torch and transformers; the tests do not: python tests/text/make_umt5_fixture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from make_t5_fixture import CONFIG, LENGTHS

OUT = Path(__file__).parent / 'fixtures' / 'umt5.npz'
FOLDER = OUT.with_suffix('')
UMT5 = CONFIG | {'model_type': 'umt5', 'feed_forward_proj': 'gated-gelu'}


def main():
  rng = np.random.default_rng(1)
  mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
  tokens = np.where(mask, rng.integers(1, CONFIG['vocab_size'], mask.shape), 0)
  model = transformers.UMT5EncoderModel(transformers.UMT5Config(**UMT5, attn_implementation='eager')).eval()
  # Larger than any trained weight, so that every part matters: norms, distances, gates in the tails of GELU.
  state = {
    name: torch.tensor(rng.normal(size=tensor.shape).astype(np.float32) * 0.5)
    for name, tensor in sorted(model.state_dict().items())
    if name != 'encoder.embed_tokens.weight'  # the same as shared.weight
  }
  model.load_state_dict(state | {'encoder.embed_tokens.weight': state['shared.weight']})
  with torch.no_grad():
    hidden = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64))).last_hidden_state
  np.savez_compressed(
    OUT,
    config=json.dumps(UMT5),
    tokens=tokens.astype(np.int32),
    mask=mask,
    hidden=hidden.numpy(),
    **{f'weights/{name}': tensor.numpy() for name, tensor in state.items()},
  )
  files = {name: f'pytorch_model-{1 + i % 2:05}-of-00002.bin' for i, name in enumerate(sorted(state))}
  FOLDER.mkdir(exist_ok=True)
  for file in set(files.values()):
    torch.save({name: state[name].half() for name in state if files[name] == file}, FOLDER / file)
  (FOLDER / 'pytorch_model.bin.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': files}))


if __name__ == '__main__':
  main()
