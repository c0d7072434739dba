"""The Flax T5 against PyTorch's numbers, its distances against the definition, and what its tokens are."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from vdm_jax.text.encoders import encoder_folder, t5_folder
from vdm_jax.text.encoders.t5 import T5, T5Encoder, relative_buckets
from vdm_jax.text.frozen import load_params

TINY = t5_folder.PUBLISHED['t5-11b']._replace(sizes={'d_model': 16})
CAPTIONS = ['a nine moving left', '', 'six and nine', 'zebra']
IDS = [[3, 4, 6, 7, 8, 1], [1], [5, 10, 4, 1], [2, 1]]
KINDS = ('relu', 'gated-gelu')


def forward(path: str, tokens, mask, dtype=jnp.float32) -> np.ndarray:
  network = T5Encoder(encoder_folder.require(path, TINY), dtype)
  return np.asarray(jax.jit(network.apply)(load_params(path, TINY, dtype), tokens, mask))


@pytest.mark.parametrize('kind', KINDS)
def test_parity_with_pytorch(write_t5, golden_t5, kind):
  mask = golden_t5['mask']
  hidden = forward(write_t5(kind), golden_t5['tokens'], mask)
  np.testing.assert_allclose(hidden[mask], golden_t5[f'{kind}/hidden'][mask], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~mask], 0)


def test_buckets_are_those_of_pytorch(golden_t5):
  """Row 300 of 601 positions has the distances -300 to 300."""
  np.testing.assert_array_equal(golden_t5['distances'], np.arange(-300, 301))
  np.testing.assert_array_equal(relative_buckets(601, 32, 128)[300], golden_t5['buckets'])


@pytest.mark.parametrize(('length', 'buckets', 'farthest'), [(150, 32, 128), (30, 8, 20), (7, 4, 3), (1, 32, 128)])
def test_buckets_are_those_of_the_definition(length, buckets, farthest):
  half, exact = buckets // 2, buckets // 4
  for query, row in enumerate(relative_buckets(length, buckets, farthest)):
    for key, bucket in enumerate(row):
      far = abs(key - query)
      if far >= exact:
        octaves = math.log(far / exact) / math.log(farthest / exact) * (half - exact)
        far = min(exact + math.floor(octaves + 1e-9), half - 1)
      assert bucket == far + (half if key > query else 0)


@pytest.mark.parametrize('kind', KINDS)
def test_the_mask_masks(write_t5, golden_t5, kind):
  """Whatever stands in the padding leaves the embeddings as they are, to the bit."""
  mask, path = golden_t5['mask'], write_t5(kind)
  other = np.where(mask, golden_t5['tokens'], 17)
  np.testing.assert_array_equal(forward(path, other, mask), forward(path, golden_t5['tokens'], mask))


def test_only_distances_matter(write_t5, golden_t5):
  """A caption moved to the right behind padding has the same embeddings: T5 knows no positions."""
  tokens, mask, path = golden_t5['tokens'][1:2], golden_t5['mask'][1:2], write_t5()
  moved = forward(path, np.roll(tokens, 5, 1), np.roll(mask, 5, 1))
  np.testing.assert_allclose(np.roll(moved, -5, 1), forward(path, tokens, mask), atol=1e-5, rtol=0)


def test_a_caption_is_the_encoding_of_its_pieces_and_its_end(write_t5):
  t5 = T5(TINY, write_t5(), 12)
  embeddings, mask = t5(CAPTIONS)
  np.testing.assert_array_equal(mask.sum(1), [len(ids) for ids in IDS])
  padded = np.array([ids + [0] * (12 - len(ids)) for ids in IDS], np.int32)
  np.testing.assert_allclose(embeddings, forward(t5.path, padded, mask), atol=1e-5, rtol=0)
  np.testing.assert_array_equal(embeddings[~mask], 0)


def test_any_length_with_room_for_a_token_will_do(write_t5):
  path = write_t5()
  assert T5(TINY, path, 600)(['a nine'])[1].sum() == 3
  with pytest.raises(ValueError, match=r'^data\.text_length=1 must be at least 2 for data\.text=t5-11b$'):
    T5(TINY, path, 1)


def test_settings_of_the_tokenizer_do_not_cut_or_pad(write_t5):
  """Published tokenizer files may carry the truncation and padding that were on when they were saved."""
  path = write_t5()
  file = f'{path}/tokenizer.json'
  expected = T5(TINY, path, 12)(CAPTIONS)
  tokenizer = tokenizers.Tokenizer.from_file(file)
  tokenizer.enable_truncation(3)
  tokenizer.enable_padding(length=9, pad_token='<pad>', pad_id=0)
  tokenizer.save(file)
  for ours, theirs in zip(T5(TINY, path, 12)(CAPTIONS), expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)
