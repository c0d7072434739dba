"""The cache of embeddings equals the encoder, however it was written, and is rejected where it does not apply."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.text_encoders import TINY_BERT, TINY_T5
from safetensors.numpy import load_file, save_file

from vdm_jax import configuration, data, text
from vdm_jax.text import cache, cache_writer
from vdm_jax.text.cache import CachedText
from vdm_jax.text.encoders import ENCODERS
from vdm_jax.text.frozen import FrozenEncoder

CAPTIONS = [f'{a} {b}'.strip() for a in ('nine', 'six', 'left', '') for b in ('nine', 'zebra', 'a moving', 'ü', '')]
REMEDY = (
  r'Name another folder with --config\.data\.text_cache=FOLDER and fill it with `python -m vdm_jax\.text embed`.*'
)
FIELDS = {'encoder': 'x', 'weights': 'x', 'tokenizer': 'x', 'length': 1, 'dtype': 'x', 'stored': 'x', 'width': 1}
FIELDS |= {'blocks': 1}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(cache_writer, 'BLOCK_CAPTIONS', 4)


@pytest.fixture
def bert(write_bert) -> FrozenEncoder:
  return FrozenEncoder(TINY_BERT, write_bert(), 12)


@pytest.fixture
def filled(bert, tmp_path) -> str:
  cache_writer.embed(bert, CAPTIONS, folder := str(tmp_path / 'cache'))
  return folder


def files(folder: str) -> dict[str, bytes]:
  return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def stale(folder: str, found: str) -> str:
  """The pattern of the message that a cache was made with other settings."""
  return f"^data.text_cache='{folder}' is stale: it was {found}. {REMEDY}$"


class Counting:
  """An encoder that records its captions and stops after `limit` of them, as a killed process does."""

  def __init__(self, encode, limit=10**9):
    self.encode, self.limit, self.encoded = encode, limit, []

  def __getattr__(self, name):
    return getattr(self.encode, name)

  def __call__(self, captions):
    if len(self.encoded) >= self.limit:
      raise KeyboardInterrupt
    self.encoded += captions
    return self.encode(captions)


def test_the_cache_equals_the_encoder_to_the_bit(bert, filled):
  for path in (bert.path, ''):
    cached = CachedText(filled, TINY_BERT, path, 12)
    for ours, theirs in zip(cached(CAPTIONS[::-1]), bert(CAPTIONS[::-1]), strict=True):
      assert ours.dtype == theirs.dtype
      np.testing.assert_array_equal(ours, theirs)
  assert cached.width == bert.width
  assert cached([])[0].shape == (0, 12, 16)


@pytest.mark.parametrize('stored', ['float16', 'bfloat16'])
def test_a_narrower_cache_rounds_embeddings(bert, tmp_path, stored):
  folder = str(tmp_path / stored)
  cache_writer.embed(bert, CAPTIONS, folder, stored=stored)
  exact, mask = bert(CAPTIONS)
  for path in ('', bert.path):
    ours, same = CachedText(folder, TINY_BERT, path, 12)([*CAPTIONS, 'six six'] if path else CAPTIONS)
    np.testing.assert_array_equal(same[: len(mask)], mask)
    np.testing.assert_array_equal(ours[: len(mask)], exact.astype(cache.STORED[stored]).astype(np.float32))
  fresh = bert(['six six'])[0][0].astype(cache.STORED[stored]).astype(np.float32)
  np.testing.assert_array_equal(ours[-1], fresh)  # captions that are not in the cache are rounded too


def test_training_on_the_cache_gets_the_batches_of_encoding_on_the_fly(bert, tmp_path):
  config = configuration.default().data
  config.update({'batch_size': 4, 'num_frames': 2, 'height': 16, 'width': 16, 'num_images': 1, 'text': 'bert-large'})
  cache_writer.embed(bert, data.captions(config), folder := str(tmp_path / 'digits'))
  cached = CachedText(folder, TINY_BERT, '', 12)
  streams = [data.build(config, encode, seed=3) for encode in (bert, cached)]
  for _ in range(3):
    on_the_fly, read = (next(stream) for stream in streams)
    for one, other in zip((on_the_fly.x, *on_the_fly.cond), (read.x, *read.cond), strict=True):
      np.testing.assert_array_equal(one, other)
  assert read.cond.text.shape == (4, 2, 12, 16) and '_encoder' not in cached.__dict__


def test_padding_is_not_stored(bert, filled):
  rows = sum(len(load_file(file)['embeddings']) for file in Path(filled).glob('*.safetensors'))
  assert rows == bert(sorted(set(CAPTIONS)))[1].sum() < 12 * len(set(CAPTIONS)) / 2


@pytest.mark.parametrize('killed_after', [0, 1, 7, 11])
def test_an_interrupted_run_resumes_and_writes_the_same_bytes(bert, filled, tmp_path, killed_after):
  folder = str(tmp_path / 'again')
  with pytest.raises(KeyboardInterrupt):
    cache_writer.embed(stopped := Counting(bert, killed_after), CAPTIONS, folder)
  finished = sum(len(load_file(file)['caption_ends']) for file in Path(folder).glob('*.safetensors'))
  assert killed_after - finished < 11  # at most one block is lost
  cache_writer.embed(rest := Counting(bert), CAPTIONS, folder)
  assert len(rest.encoded) == len(set(CAPTIONS)) - finished
  assert len(stopped.encoded) == killed_after
  assert files(folder) == files(filled)
  assert cache_writer.embed(Counting(bert, 0), CAPTIONS, folder) == 0


def test_interrupted_writing_leaves_no_partial_file(bert, filled, tmp_path, monkeypatch):
  folder = tmp_path / 'again'

  def stop(self, content):
    self.write_text('half')
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Path, 'write_bytes', stop)
    cache_writer.embed(bert, CAPTIONS, str(folder))
  assert [file.name for file in folder.iterdir()] == ['cache.json']
  cache_writer.embed(bert, CAPTIONS, str(folder))
  assert files(str(folder)) == files(filled)


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 0, 1)])
def test_several_hosts_write_what_one_host_writes(bert, filled, tmp_path, order):
  folder, shares = str(tmp_path / 'together'), []
  for host in order:
    cache_writer.embed(share := Counting(bert), CAPTIONS, folder, shard_index=host, shard_count=3)
    shares.append(share.encoded)
  assert files(folder) == files(filled)
  assert sorted(sum(shares, [])) == sorted(set(CAPTIONS)) and all(shares)


def test_only_new_captions_are_encoded(bert, filled):
  before = files(filled)
  assert cache_writer.embed(grown := Counting(bert), [*CAPTIONS, 'six left six'], filled) == 1
  assert grown.encoded == ['six left six']
  changed = [name for name, content in files(filled).items() if before.get(name) != content]
  assert len(changed) == 1
  everything = [*CAPTIONS, 'six left six']
  np.testing.assert_array_equal(CachedText(filled, TINY_BERT, '', 12)(everything)[0], bert(everything)[0])


def test_progress_is_reported_after_every_block(bert, tmp_path):
  seen = []
  cache_writer.embed(bert, CAPTIONS, str(tmp_path / 'new'), report=lambda done, total: seen.append((done, total)))
  total = len(set(CAPTIONS))
  assert seen[-1] == (total, total) and len(seen) == len(list((tmp_path / 'new').glob('*.safetensors')))


def test_a_pickle_holds_only_arguments_and_unpickling_hashes_nothing(bert, filled, monkeypatch):
  cached = CachedText(filled, TINY_BERT, bert.path, 12)
  expected, _ = cached([*CAPTIONS, 'left six'])
  monkeypatch.setattr(cache, 'check', None)
  pickled = pickle.dumps(cached)
  assert len(pickled) < 2000
  np.testing.assert_array_equal(pickle.loads(pickled)([*CAPTIONS, 'left six'])[0], expected)


def test_captions_that_are_not_in_the_cache_need_the_encoder(bert, filled):
  np.testing.assert_array_equal(CachedText(filled, TINY_BERT, bert.path, 12)(['left six'])[0], bert(['left six'])[0])
  with pytest.raises(
    ValueError, match=rf"^data\.text_cache='{filled}' lacks the caption 'left six', and data\.text_path"
  ):
    CachedText(filled, TINY_BERT, '', 12)(['left six'])


def problems(folder: str, captions=CAPTIONS, path: str = '') -> list[str]:
  return cache.problems(folder, TINY_BERT, captions, path=path, length=12, dtype='float32')


def test_missing_captions_are_counted(filled):
  (problem,) = problems(filled, ['six a moving', 'six left', 'left six'])
  assert problem.startswith(
    f"data.text_cache='{filled}' lacks 2 of the 3 captions of the data, such as 'left six': fill it with "
    '`python -m vdm_jax.text embed`'
  )
  assert problems(filled) == []


def test_other_weights_are_rejected(bert, filled, golden_weights, write_bert):
  weights = dict(golden_weights)
  name = 'encoder.layer.2.output.dense.bias'
  weights[name] = np.nextafter(weights[name], np.float32(9))
  write_bert(weights)
  message = stale(filled, f"made with other weights than data.text_path='{bert.path}' has")
  with pytest.raises(ValueError, match=message):
    CachedText(filled, TINY_BERT, bert.path, 12)
  (problem,) = problems(filled, path=bert.path)
  assert re.match(message, problem)
  with pytest.raises(ValueError, match=message):
    cache_writer.embed(FrozenEncoder(TINY_BERT, bert.path, 12), CAPTIONS, filled)
  CachedText(filled, TINY_BERT, '', 12)  # without the encoder's folder the cache is trusted


def test_another_configuration_of_the_same_weights_is_rejected(bert, filled, write_bert):
  write_bert(layer_norm_eps=1e-3)
  with pytest.raises(ValueError, match='is stale: it was made with other weights than'):
    CachedText(filled, TINY_BERT, bert.path, 12)


def test_another_tokenizer_is_rejected(bert, filled):
  vocabulary = Path(bert.path) / 'vocab.txt'
  vocabulary.write_text(vocabulary.read_text().replace('nine', 'zebra'))
  message = stale(filled, f"made with other tokenizer files than data.text_path='{bert.path}' has")
  with pytest.raises(ValueError, match=message):
    CachedText(filled, TINY_BERT, bert.path, 12)


def test_files_and_older_names_of_weights_do_not_matter(bert, filled, golden_weights, write_bert):
  weights = {f'bert.{name}': value for name, value in golden_weights.items()}
  path = write_bert(weights | {'bert.pooler.dense.bias': np.zeros(16, np.float32)})
  CachedText(filled, TINY_BERT, path, 12)
  (Path(path) / 'model.safetensors').unlink()
  table = {name: f'{i % 2}.safetensors' for i, name in enumerate(weights)}
  for file in set(table.values()):
    save_file({name: weights[name] for name in weights if table[name] == file}, Path(path) / file)
  (Path(path) / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': table}))
  CachedText(filled, TINY_BERT, path, 12)


def test_other_settings_are_listed_together(filled):
  message = stale(
    filled,
    'made with data.text=bert-large, not t5-11b and made with data.text_length=12, not 77 and made with '
    'data.text_dtype=float32, not bfloat16',
  )
  with pytest.raises(ValueError, match=message):
    CachedText(filled, ENCODERS['t5-11b'], '', 77, 'bfloat16')


def test_a_missing_encoder_cannot_be_compared(filled, tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    CachedText(filled, TINY_BERT, str(tmp_path / 'none'), 12)
  assert str(error.value).startswith(f"data.text_cache='{filled}' cannot be compared with its encoder; ")
  assert 'data.text=bert-large needs a folder with model.safetensors, config.json and tokenizer.json' in str(
    error.value
  )


def test_another_stored_type_is_rejected(bert, filled):
  message = f"^data.text_cache='{filled}' is stored as float32, not float16: .* --store=float32$"
  with pytest.raises(ValueError, match=message):
    cache_writer.embed(bert, CAPTIONS, filled, stored='float16')
  with pytest.raises(ValueError, match="'int8': choose one of float32, float16, bfloat16$"):
    cache_writer.embed(bert, CAPTIONS, filled, stored='int8')


def test_embeddings_that_float16_cannot_hold_are_rejected(tmp_path, write_t5, golden_t5):
  weights = {name.removeprefix('relu/weights/'): w for name, w in golden_t5.items() if name.startswith('relu/weights/')}
  weights['encoder.final_layer_norm.weight'] = np.full(16, 1e6, np.float32)
  t5 = FrozenEncoder(TINY_T5, write_t5(weights=weights), 12)
  with pytest.raises(ValueError, match=f"^the embedding of 'a' is not finite in float16: .* '{t5.path}' again$"):
    cache_writer.embed(t5, ['a'], str(tmp_path / 'half'), stored='float16')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'is not a valid record of a cache (Expecting property name'),
    ('[]', 'is not a valid record of a cache ('),
    ('{"weights": ""}', 'is not a valid record of a cache (Record.__init__() missing '),
    (json.dumps(dict.fromkeys(FIELDS, 'x')), "is not a valid record of a cache (length is 'x')"),
    (json.dumps(FIELDS | {'blocks': 0}), 'is not a valid record of a cache (blocks is 0)'),
  ],
)
def test_an_invalid_record_is_rejected(filled, content, message):
  file = Path(filled) / 'cache.json'
  file.write_text(content)
  with pytest.raises(ValueError, match=f'^{re.escape(f"{file} {message}")}.*: {REMEDY}$'):
    cache.read_record(filled)


def test_a_record_of_another_format_is_rejected(filled):
  file = Path(filled) / 'cache.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'format': 2}))
  with pytest.raises(ValueError, match=f'^{file} has format 2, but only 1 is supported: {REMEDY}$'):
    cache.read_record(filled)


def test_a_folder_without_a_record_is_rejected(tmp_path):
  message = f"^data.text_cache='{tmp_path}' has no cache.json: fill it with `python -m vdm_jax.text embed`"
  with pytest.raises(FileNotFoundError, match=message):
    CachedText(str(tmp_path), TINY_BERT, '', 12)
  (problem,) = problems(str(tmp_path), ['a'])
  assert re.match(message, problem)


def test_blocks_that_are_incomplete_or_of_another_cache_are_rejected(bert, filled, tmp_path):
  cache_writer.embed(bert, CAPTIONS, other := str(tmp_path / 'other'), stored='float16')
  file = sorted(Path(filled).glob('*.safetensors'))[0]
  file.write_bytes((Path(other) / file.name).read_bytes())
  again = 'delete it and run `python -m vdm_jax.text embed` again'
  assert problems(filled) == [f'{file} does not belong to the cache.json beside it; {again}']
  file.write_bytes(file.read_bytes()[:40])
  (problem,) = problems(filled)
  assert problem.startswith(f'{file} is incomplete (')
  assert problem.endswith(f'); {again}')
  file.unlink()
  assert cache_writer.embed(bert, CAPTIONS, filled) > 0
  assert problems(filled) == []


@pytest.mark.parametrize('name', ['none', 'words'])
def test_only_frozen_encoders_have_a_cache(name, filled):
  (problem,) = text.check(name, cache=filled)
  assert problem.startswith(f"data.text_cache='{filled}' has no effect: data.text='{name}' has no embeddings.")
  assert all(encoder in problem for encoder in ENCODERS)
  with pytest.raises(ValueError, match=f'^{re.escape(problem)}$'):
    text.build(name, length=4, vocabulary=('a',), cache=filled)
