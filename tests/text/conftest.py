"""A tiny BERT on disk: the weights of fixtures/bert.npz with a vocabulary of word pieces beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

VOCABULARY = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
VOCABULARY += ['a', 'nine', 'six', 'mov', '##ing', 'left', 'right', 'and']


@pytest.fixture(scope='session')
def golden() -> dict[str, np.ndarray]:
  with np.load(Path(__file__).parent / 'fixtures' / 'bert.npz') as archive:
    return dict(archive)


@pytest.fixture(scope='session')
def golden_weights(golden) -> dict[str, np.ndarray]:
  return {
    name.removeprefix('weights/'): value for name, value in golden.items() if name.startswith('weights/')
  }


@pytest.fixture
def write_bert(tmp_path, golden, golden_weights):
  """Returns `write(weights=None, **config)`, which writes a folder and returns its path."""

  def write(weights=None, **config) -> str:
    folder = tmp_path / 'bert'
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(json.loads(str(golden['config'])) | config))
    (folder / 'vocab.txt').write_text('\n'.join(VOCABULARY) + '\n')
    save_file(golden_weights if weights is None else weights, folder / 'model.safetensors')
    return str(folder)

  return write
