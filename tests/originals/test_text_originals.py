"""Text encoders against PyTorch, as rows of the same table; their tests are in tests/text."""

from __future__ import annotations

import pytest
from text.encoders import test_bert, test_clip, test_t5

PYTORCH = 'PyTorch, transformers'


def test_bert_equals_pytorch(write_bert, golden, agrees):
  mask = golden['mask']
  found = test_bert.forward(write_bert(), golden['tokens'], mask)
  agrees(found[mask], golden['hidden'][mask], 1e-5, 'BERT', f'{PYTORCH}, BertModel', 'last hidden state')


@pytest.mark.parametrize('kind', test_t5.KINDS)
def test_t5_equals_pytorch(write_t5, golden_t5, kind, agrees):
  mask = golden_t5['mask']
  found = test_t5.forward(write_t5(kind), golden_t5['tokens'], mask)
  reference = f'{PYTORCH}, T5EncoderModel'
  agrees(found[mask], golden_t5[f'{kind}/hidden'][mask], 1e-5, f'T5, {kind}', reference, 'last hidden state')


@pytest.mark.parametrize('kind', test_clip.KINDS)
def test_clip_equals_pytorch(write_clip, golden_clip, kind, agrees):
  mask, tokens, path = golden_clip['mask'], golden_clip[f'{kind}/tokens'], write_clip(kind)
  hidden, reference = test_clip.forward(path, tokens, mask), f'{PYTORCH}, CLIPTextModelWithProjection'
  agrees(hidden[mask], golden_clip[f'{kind}/hidden'][mask], 1e-5, f'CLIP, {kind}', reference, 'last hidden state')
  ends = test_clip.end(tokens, test_clip.encoder_folder.read_config(path, test_clip.TINY))
  found = hidden[range(len(tokens)), ends] @ golden_clip[f'{kind}/weights/text_projection.weight'].T
  agrees(found, golden_clip[f'{kind}/projected'], 1e-5, f'CLIP, {kind}', reference, 'pooled and projected')
