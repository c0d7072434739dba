"""The Flax BERT against PyTorch's numbers, and the laws of its text function."""

from __future__ import annotations

import functools
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from vdm_jax.text import bert_folder
from vdm_jax.text.bert import Bert, BertEncoder, load_params

CAPTIONS = ['a nine moving left', '', 'six and nine', 'A NINE moving left', 'zebra']
IDS = [[2, 5, 6, 8, 9, 10, 3], [2, 3], [2, 7, 12, 6, 3], [2, 5, 6, 8, 9, 10, 3], [2, 1, 3]]


@pytest.fixture
def bert(write_bert) -> Bert:
  return Bert(write_bert(), 12)


@functools.cache
def compiled(config: bert_folder.BertConfig, dtype):
  return jax.jit(BertEncoder(config, dtype).apply)


def forward(path: str, tokens, mask, dtype=jnp.float32) -> np.ndarray:
  config = bert_folder.require(path)
  return np.asarray(compiled(config, dtype)(load_params(path, config, dtype), tokens, mask))


def test_parity_with_pytorch(write_bert, golden):
  hidden = forward(write_bert(), golden['tokens'], golden['mask'])
  np.testing.assert_allclose(hidden[golden['mask']], golden['hidden'][golden['mask']], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~golden['mask']], 0)


def test_the_names_of_the_published_files_are_read_too(write_bert, golden, golden_weights):
  ours = forward(write_bert(), golden['tokens'], golden['mask'])
  published = {
    'bert.' + n.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): w
    for n, w in golden_weights.items()
  } | {'cls.predictions.bias': np.zeros(40, np.float32), 'bert.pooler.dense.bias': np.zeros(16, np.float32)}
  np.testing.assert_array_equal(forward(write_bert(published), golden['tokens'], golden['mask']), ours)


def test_weights_stored_in_half_precision_are_widened(write_bert, golden, golden_weights):
  halved = {name: value.astype(np.float16) for name, value in golden_weights.items()}
  widened = {name: value.astype(np.float32) for name, value in halved.items()}
  stored = forward(write_bert(halved), golden['tokens'], golden['mask'])
  np.testing.assert_array_equal(stored, forward(write_bert(widened), golden['tokens'], golden['mask']))


def test_bfloat16_rounds_and_no_more(write_bert, golden):
  exact = forward(write_bert(), golden['tokens'], golden['mask'])
  rounded = forward(write_bert(), golden['tokens'], golden['mask'], jnp.bfloat16)
  assert rounded.dtype == np.float32
  assert 1e-4 < np.abs(rounded - exact).max() < 0.2


def test_the_mask_masks(write_bert, golden):
  """Whatever stands in the padding leaves the embeddings as they are, to the bit."""
  mask, path = golden['mask'], write_bert()
  other = np.where(mask, golden['tokens'], 17)
  np.testing.assert_array_equal(forward(path, other, mask), forward(path, golden['tokens'], mask))


def test_a_caption_is_the_encoding_of_its_word_pieces(bert):
  embeddings, mask = bert(CAPTIONS)
  np.testing.assert_array_equal(mask.sum(1), [len(ids) for ids in IDS])
  padded = np.array([ids + [0] * (12 - len(ids)) for ids in IDS], np.int32)
  np.testing.assert_allclose(embeddings, forward(bert.path, padded, mask), atol=1e-5, rtol=0)
  np.testing.assert_array_equal(embeddings[~mask], 0)


def test_the_padding_length_does_not_change_the_embeddings(bert):
  long, mask = Bert(bert.path, 20)(CAPTIONS)
  np.testing.assert_allclose(long[:, :12], bert(CAPTIONS)[0], atol=1e-5, rtol=0)
  assert not long[:, 12:].any() and not mask[:, 12:].any()


def test_the_neighbours_do_not_change_an_embedding(bert):
  together, _ = bert(CAPTIONS)
  alone = Bert(bert.path, 12)
  for caption, embedding in reversed(list(zip(CAPTIONS, together, strict=True))):
    np.testing.assert_array_equal(alone([caption])[0][0], embedding)


def test_a_caption_is_encoded_once(bert):
  first, _ = bert(['a nine'])
  first[:] = 7  # the caller's own
  bert.__dict__['_encoder'] = None  # a second encoding would fail
  again, _ = bert(['a nine', 'a nine'])
  assert not (again == 7).any()
  np.testing.assert_array_equal(again[0], again[1])


def test_threads_get_the_same_embeddings(write_bert):
  captions = [f'{a} {b}' for a in ('nine', 'six', 'left') for b in ('nine', 'a', 'right')]
  with ThreadPoolExecutor(8) as pool:
    threaded = list(pool.map(Bert(write_bert(), 12), [[c] for c in captions * 3]))
  expected, _ = Bert(write_bert(), 12)(captions * 3)
  np.testing.assert_array_equal(np.concatenate([tokens for tokens, _ in threaded]), expected)


def test_the_mesh_of_the_caller_does_not_matter(write_bert):
  """A loop that trains on four devices under `jax.set_mesh` may call the text function from within."""
  script = f"""
import jax, numpy as np
from vdm_jax.text.bert import Bert
outside, _ = Bert({write_bert()!r}, 12)(['a nine'])
with jax.set_mesh(jax.make_mesh((4,), ('data',))):
  inside, _ = Bert({write_bert()!r}, 12)(['a nine'])
np.testing.assert_array_equal(inside, outside)
"""
  run = subprocess.run(
    [sys.executable, '-c', script],
    env=os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr


def test_tokenizer_json_reads_like_vocab_txt(bert):
  expected, _ = bert(CAPTIONS)
  vocabulary = Path(bert.path) / 'vocab.txt'
  tokenizer = transformers.BertTokenizer(str(vocabulary))
  tokenizer.backend_tokenizer.save(str(vocabulary.with_name('tokenizer.json')))
  vocabulary.unlink()
  np.testing.assert_array_equal(Bert(bert.path, 12)(CAPTIONS)[0], expected)


def test_a_long_caption_is_cut_before_its_last_token(bert):
  message = (
    "the caption 'a nine moving left' has 7 tokens and is cut to data.text_length=5; raise it to keep all"
  )
  with pytest.warns(UserWarning, match=re.escape(message)):
    embeddings, mask = Bert(bert.path, 5)(['a nine moving left'])
  cut = forward(bert.path, np.array([[2, 5, 6, 8, 3]], np.int32), np.ones((1, 5), bool))
  np.testing.assert_allclose(embeddings, cut, atol=1e-5, rtol=0)
  assert mask.all()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_pickle_holds_no_weights_and_reads_the_same(write_bert, dtype):
  bert = Bert(write_bert(), 12, dtype=dtype)
  expected, _ = bert(CAPTIONS)
  pickled = pickle.dumps(bert)
  assert len(pickled) < 1000
  np.testing.assert_array_equal(pickle.loads(pickled)(CAPTIONS)[0], expected)


def test_a_tokenizer_of_another_model_is_refused(bert):
  vocabulary = Path(bert.path) / 'vocab.txt'
  vocabulary.write_text(vocabulary.read_text() + '\n'.join(f'word{i}' for i in range(30)))
  message = f'the tokenizer in {bert.path} has 43 tokens, config.json has 40; take both from the same model'
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    Bert(bert.path, 12)(['a'])


@pytest.mark.parametrize('length', [2, 21])
def test_a_length_without_room_or_positions_is_refused(write_bert, length):
  with pytest.raises(
    ValueError, match=f'^data.text_length={length} must be from 3 to 20, the positions of BERT$'
  ):
    Bert(write_bert(), length)


def test_another_dtype_is_refused(write_bert):
  with pytest.raises(ValueError, match="^dtype='float16' must be 'float32' or 'bfloat16'$"):
    Bert(write_bert(), 12, dtype='float16')
