"""The text encoders' agreement with PyTorch, as rows of the fidelity table; tests/text tests their other properties."""

from __future__ import annotations

import pytest
from helpers.text_encoders import TINY_BERT, TINY_CLIP, TINY_T5, forward

from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.clip import end_positions

PYTORCH = 'PyTorch, transformers'


def test_bert_agrees_with_pytorch(write_bert, golden, agrees):
  mask = golden['mask']
  found = forward(write_bert(), TINY_BERT, golden['tokens'], mask)
  agrees(found[mask], golden['hidden'][mask], 1e-5, 'BERT', f'{PYTORCH}, BertModel', 'last hidden state')


@pytest.mark.parametrize('kind', ['relu', 'gated-gelu'])
def test_t5_agrees_with_pytorch(write_t5, golden_t5, kind, agrees):
  mask = golden_t5['mask']
  found = forward(write_t5(kind), TINY_T5, golden_t5['tokens'], mask)
  reference = f'{PYTORCH}, T5EncoderModel'
  agrees(found[mask], golden_t5[f'{kind}/hidden'][mask], 1e-5, f'T5, {kind}', reference, 'last hidden state')


@pytest.mark.parametrize('kind', ['quick_gelu', 'gelu'])
def test_clip_agrees_with_pytorch(write_clip, golden_clip, kind, agrees):
  mask, tokens, path = golden_clip['mask'], golden_clip[f'{kind}/tokens'], write_clip(kind)
  hidden, reference = forward(path, TINY_CLIP, tokens, mask), f'{PYTORCH}, CLIPTextModelWithProjection'
  agrees(hidden[mask], golden_clip[f'{kind}/hidden'][mask], 1e-5, f'CLIP, {kind}', reference, 'last hidden state')
  ends = end_positions(tokens, encoder_folder.read_config(path, TINY_CLIP))
  found = hidden[range(len(tokens)), ends] @ golden_clip[f'{kind}/weights/text_projection.weight'].T
  agrees(found, golden_clip[f'{kind}/projected'], 1e-5, f'CLIP, {kind}', reference, 'pooled and projected')
