"""The text encoders' agreement with PyTorch, whose laws are in tests/text, as figures of the same table."""

from __future__ import annotations

import pytest
from text import test_bert, test_t5

PYTORCH = 'PyTorch, transformers'


def test_bert_is_that_of_pytorch(write_bert, golden, agrees):
  mask = golden['mask']
  found = test_bert.forward(write_bert(), golden['tokens'], mask)
  agrees(found[mask], golden['hidden'][mask], 1e-5, 'BERT', f'{PYTORCH}, BertModel', 'last hidden state')


@pytest.mark.parametrize('kind', test_t5.KINDS)
def test_t5_is_that_of_pytorch(write_t5, golden_t5, kind, agrees):
  mask = golden_t5['mask']
  found = test_t5.forward(write_t5(kind), golden_t5['tokens'], mask)
  reference = f'{PYTORCH}, T5EncoderModel'
  agrees(found[mask], golden_t5[f'{kind}/hidden'][mask], 1e-5, f'T5, {kind}', reference, 'last hidden state')
