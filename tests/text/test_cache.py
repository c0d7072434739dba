"""Laws of embeddings on disk: they are what the encoder gives, however they came there, and never of something else."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdm_jax import configuration, data, text
from vdm_jax.text import cache, cache_writer
from vdm_jax.text.cache import CachedText
from vdm_jax.text.encoders import bert_folder, t5_folder
from vdm_jax.text.encoders.bert import Bert
from vdm_jax.text.encoders.t5 import T5

BERT = bert_folder.PUBLISHED['bert-large']._replace(sizes={'hidden_size': 16})
CAPTIONS = [f'{a} {b}'.strip() for a in ('nine', 'six', 'left', '') for b in ('nine', 'zebra', 'a moving', 'ü', '')]
REMEDY = (
  'Name another folder with --config.data.text_cache=FOLDER and fill it with `python -m vdm_jax.text embed` and the '
  '--config flags of the training, or leave data.text_cache empty to encode while training.'
)
FIELDS = {'encoder': 'x', 'weights': 'x', 'tokenizer': 'x', 'length': 1, 'dtype': 'x', 'stored': 'x', 'width': 1}
FIELDS |= {'blocks': 1}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(cache_writer, 'BLOCK_CAPTIONS', 4)


@pytest.fixture
def bert(write_bert) -> Bert:
  return Bert(BERT, write_bert(), 12)


@pytest.fixture
def filled(bert, tmp_path) -> str:
  cache_writer.embed(bert, CAPTIONS, folder := str(tmp_path / 'cache'))
  return folder


def files(folder: str) -> dict[str, bytes]:
  return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def refuses(error, message: str):
  return pytest.raises(error, match=f'^{re.escape(message)}$')


class Counting:
  """An encoder that keeps what it was asked for, and stops after `limit` captions as a killed process does."""

  def __init__(self, encoder, limit=10**9):
    self.encoder, self.limit, self.asked = encoder, limit, []

  def __getattr__(self, name):
    return getattr(self.encoder, name)

  def __call__(self, captions):
    if len(self.asked) >= self.limit:
      raise KeyboardInterrupt
    self.asked += captions
    return self.encoder(captions)


def test_the_cache_gives_what_the_encoder_gives_to_the_bit(bert, filled):
  for path in (bert.path, ''):
    cached = CachedText(filled, BERT, path, 12)
    for ours, theirs in zip(cached(CAPTIONS[::-1]), bert(CAPTIONS[::-1]), strict=True):
      assert ours.dtype == theirs.dtype
      np.testing.assert_array_equal(ours, theirs)
  assert cached.width == bert.width
  assert cached([])[0].shape == (0, 12, 16)


@pytest.mark.parametrize('stored', ['float16', 'bfloat16'])
def test_a_narrower_cache_gives_the_rounded_embeddings(bert, tmp_path, stored):
  folder = str(tmp_path / stored)
  cache_writer.embed(bert, CAPTIONS, folder, stored=stored)
  exact, mask = bert(CAPTIONS)
  for path in ('', bert.path):
    ours, same = CachedText(folder, BERT, path, 12)([*CAPTIONS, 'six six'] if path else CAPTIONS)
    np.testing.assert_array_equal(same[: len(mask)], mask)
    np.testing.assert_array_equal(ours[: len(mask)], exact.astype(cache.STORED[stored]).astype(np.float32))
  fresh = bert(['six six'])[0][0].astype(cache.STORED[stored]).astype(np.float32)
  np.testing.assert_array_equal(ours[-1], fresh)  # a caption of one's own is rounded alike


def test_training_on_the_cache_sees_the_batches_of_encoding_on_the_fly(bert, tmp_path):
  config = configuration.default().data
  config.update({'batch_size': 4, 'num_frames': 2, 'height': 16, 'width': 16, 'num_images': 1, 'text': 'bert-large'})
  cache_writer.embed(bert, data.captions(config), folder := str(tmp_path / 'digits'))
  cached = CachedText(folder, BERT, '', 12)
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
def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(bert, filled, tmp_path, killed_after):
  folder = str(tmp_path / 'again')
  with pytest.raises(KeyboardInterrupt):
    cache_writer.embed(stopped := Counting(bert, killed_after), CAPTIONS, folder)
  finished = sum(len(load_file(file)['caption_ends']) for file in Path(folder).glob('*.safetensors'))
  assert killed_after - finished < 11  # no more than one block is lost
  cache_writer.embed(rest := Counting(bert), CAPTIONS, folder)
  assert len(rest.asked) == len(set(CAPTIONS)) - finished
  assert len(stopped.asked) == killed_after
  assert files(folder) == files(filled)
  assert cache_writer.embed(Counting(bert, 0), CAPTIONS, folder) == 0


def test_a_stop_while_a_file_is_written_leaves_no_part_of_it(bert, filled, tmp_path, monkeypatch):
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
def test_hosts_together_write_what_one_host_writes(bert, filled, tmp_path, order):
  folder, shares = str(tmp_path / 'together'), []
  for host in order:
    cache_writer.embed(share := Counting(bert), CAPTIONS, folder, shard_index=host, shard_count=3)
    shares.append(share.asked)
  assert files(folder) == files(filled)
  assert sorted(sum(shares, [])) == sorted(set(CAPTIONS)) and all(shares)


def test_new_captions_cost_their_own_encoding_alone(bert, filled):
  before = files(filled)
  assert cache_writer.embed(grown := Counting(bert), [*CAPTIONS, 'six left six'], filled) == 1
  assert grown.asked == ['six left six']
  changed = [name for name, content in files(filled).items() if before.get(name) != content]
  assert len(changed) == 1
  everything = [*CAPTIONS, 'six left six']
  np.testing.assert_array_equal(CachedText(filled, BERT, '', 12)(everything)[0], bert(everything)[0])


def test_progress_is_told_after_every_block(bert, tmp_path):
  seen = []
  cache_writer.embed(bert, CAPTIONS, str(tmp_path / 'new'), report=lambda done, total: seen.append((done, total)))
  total = len(set(CAPTIONS))
  assert seen[-1] == (total, total) and len(seen) == len(list((tmp_path / 'new').glob('*.safetensors')))


def test_a_pickle_holds_the_arguments_and_its_copy_hashes_nothing(bert, filled, monkeypatch):
  cached = CachedText(filled, BERT, bert.path, 12)
  expected, _ = cached([*CAPTIONS, 'left six'])
  monkeypatch.setattr(cache, 'check', None)
  pickled = pickle.dumps(cached)
  assert len(pickled) < 2000
  np.testing.assert_array_equal(pickle.loads(pickled)([*CAPTIONS, 'left six'])[0], expected)


def test_a_caption_that_is_in_no_file_needs_the_encoder(bert, filled):
  np.testing.assert_array_equal(CachedText(filled, BERT, bert.path, 12)(['left six'])[0], bert(['left six'])[0])
  message = (
    f"data.text_cache='{filled}' lacks the caption 'left six', and data.text_path is empty: name the folder of "
    'bert-large with --config.data.text_path=FOLDER to encode it'
  )
  with refuses(ValueError, message):
    CachedText(filled, BERT, '', 12)(['left six'])


def test_captions_that_are_missing_are_counted_with_the_remedy(filled):
  message = (
    f"data.text_cache='{filled}' lacks 2 of the 3 captions of the data, such as 'left six': fill it with "
    '`python -m vdm_jax.text embed` and the --config flags of the training, or leave data.text_cache empty to encode '
    'while training; only those are computed'
  )
  assert cache.problems(filled, BERT, '', 12, 'float32', ['six a moving', 'six left', 'left six']) == [message]
  assert cache.problems(filled, BERT, '', 12, 'float32', CAPTIONS) == []


def test_other_weights_are_refused(bert, filled, golden_weights, write_bert):
  weights = dict(golden_weights)
  name = 'encoder.layer.2.output.dense.bias'
  weights[name] = np.nextafter(weights[name], np.float32(9))
  write_bert(weights)
  found = f"of another set of weights than that in data.text_path='{bert.path}'"
  message = f"data.text_cache='{filled}' is stale: it is {found}. {REMEDY}"
  with refuses(ValueError, message):
    CachedText(filled, BERT, bert.path, 12)
  assert cache.problems(filled, BERT, bert.path, 12, 'float32', CAPTIONS) == [message]
  with refuses(ValueError, message):
    cache_writer.embed(Bert(BERT, bert.path, 12), CAPTIONS, filled)
  CachedText(filled, BERT, '', 12)  # without the encoder's folder the cache is trusted


def test_another_configuration_of_the_same_weights_is_refused(bert, filled, write_bert):
  write_bert(layer_norm_eps=1e-3)
  with pytest.raises(ValueError, match='is stale: it is of another set of weights than'):
    CachedText(filled, BERT, bert.path, 12)


def test_another_tokenizer_is_refused(bert, filled):
  vocabulary = Path(bert.path) / 'vocab.txt'
  vocabulary.write_text(vocabulary.read_text().replace('nine', 'zebra'))
  message = (
    f"data.text_cache='{filled}' is stale: it is of another tokenizer than that in data.text_path='{bert.path}'. "
    f'{REMEDY}'
  )
  with refuses(ValueError, message):
    CachedText(filled, BERT, bert.path, 12)


def test_weights_in_other_files_and_older_names_are_the_same(bert, filled, golden_weights, write_bert):
  weights = {f'bert.{name}': value for name, value in golden_weights.items()}
  path = write_bert(weights | {'bert.pooler.dense.bias': np.zeros(16, np.float32)})
  CachedText(filled, BERT, path, 12)
  (Path(path) / 'model.safetensors').unlink()
  table = {name: f'{i % 2}.safetensors' for i, name in enumerate(weights)}
  for file in set(table.values()):
    save_file({name: weights[name] for name in weights if table[name] == file}, Path(path) / file)
  (Path(path) / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': table}))
  CachedText(filled, BERT, path, 12)


def test_other_settings_are_refused_all_at_once(filled):
  other = t5_folder.PUBLISHED['t5-11b']
  message = (
    f"data.text_cache='{filled}' is stale: it is of data.text=bert-large, not t5-11b and of data.text_length=12, not "
    f'77 and of data.text_dtype=float32, not bfloat16. {REMEDY}'
  )
  with refuses(ValueError, message):
    CachedText(filled, other, '', 77, 'bfloat16')


def test_an_encoder_that_is_not_there_cannot_be_compared(filled, tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    CachedText(filled, BERT, str(tmp_path / 'none'), 12)
  assert str(error.value).startswith(
    f"data.text_cache='{filled}' cannot be compared with its encoder; pass --config.data.text_path= to trust it. "
    'data.text=bert-large needs a folder with model.safetensors, config.json and tokenizer.json or vocab.txt of '
  )


def test_another_way_to_store_is_refused(bert, filled):
  message = f"data.text_cache='{filled}' holds float32, not float16: name another folder, or pass --store=float32"
  with refuses(ValueError, message):
    cache_writer.embed(bert, CAPTIONS, filled, stored='float16')
  with refuses(ValueError, "embeddings can be stored as float32, float16, bfloat16, not 'int8'"):
    cache_writer.embed(bert, CAPTIONS, filled, stored='int8')


def test_what_float16_cannot_hold_is_refused(tmp_path, write_t5, golden_t5):
  weights = {name.removeprefix('relu/weights/'): w for name, w in golden_t5.items() if name.startswith('relu/weights/')}
  weights['encoder.final_layer_norm.weight'] = np.full(16, 1e6, np.float32)
  tiny = t5_folder.PUBLISHED['t5-11b']._replace(sizes={'d_model': 16})
  t5 = T5(tiny, write_t5(weights=weights), 12)
  message = (
    "the embedding of 'a' is not finite in float16: pass --store=float32, and if that fails too, download the weights "
    f"in '{t5.path}' again"
  )
  with refuses(ValueError, message):
    cache_writer.embed(t5, ['a'], str(tmp_path / 'half'), stored='float16')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'does not say what the cache is of (Expecting property name'),
    ('[]', 'does not say what the cache is of ('),
    ('{"weights": ""}', 'does not say what the cache is of (Record.__init__() missing '),
    (json.dumps(dict.fromkeys(FIELDS, 'x')), "does not say what the cache is of (length is 'x')"),
    (json.dumps(FIELDS | {'blocks': 0}), 'does not say what the cache is of (blocks is 0)'),
  ],
)
def test_a_record_that_says_nothing_is_refused(filled, content, message):
  file = Path(filled) / 'cache.json'
  file.write_text(content)
  with pytest.raises(ValueError, match=f'^{re.escape(f"{file} {message}")}.*{re.escape(f": {REMEDY}")}$'):
    cache.read_record(filled)


def test_a_record_of_another_format_is_refused(filled):
  file = Path(filled) / 'cache.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'format': 2}))
  with refuses(ValueError, f'{file} is of format 2, and only 1 is read: {REMEDY}'):
    cache.read_record(filled)


def test_a_folder_without_a_record_is_no_cache(tmp_path):
  message = (
    f"data.text_cache='{tmp_path}' has no cache.json: fill it with `python -m vdm_jax.text embed` and the --config "
    'flags of the training, or leave data.text_cache empty to encode while training'
  )
  with refuses(FileNotFoundError, message):
    CachedText(str(tmp_path), BERT, '', 12)
  assert cache.problems(str(tmp_path), BERT, '', 12, 'float32', ['a']) == [message]


def test_a_block_that_is_not_whole_or_of_another_cache_is_refused(bert, filled, tmp_path):
  cache_writer.embed(bert, CAPTIONS, other := str(tmp_path / 'other'), stored='float16')
  file = sorted(Path(filled).glob('*.safetensors'))[0]
  file.write_bytes((Path(other) / file.name).read_bytes())
  again = 'delete it and run `python -m vdm_jax.text embed` again'
  message = f'{file} is of another cache than the cache.json beside it; {again}'
  assert cache.problems(filled, BERT, '', 12, 'float32', CAPTIONS) == [message]
  file.write_bytes(file.read_bytes()[:40])
  (problem,) = cache.problems(filled, BERT, '', 12, 'float32', CAPTIONS)
  assert problem.startswith(f'{file} is not whole (')
  assert problem.endswith(f'); {again}')
  file.unlink()
  assert cache_writer.embed(bert, CAPTIONS, filled) > 0
  assert cache.problems(filled, BERT, '', 12, 'float32', CAPTIONS) == []


@pytest.mark.parametrize('name', ['none', 'words'])
def test_only_frozen_encoders_have_embeddings_to_keep(name, filled):
  message = (
    f"data.text_cache='{filled}' has no effect on data.text='{name}', which has no embeddings to keep: leave it empty, "
    'or choose data.text of bert-large, clip-vit-base-patch32, clip-vit-large-patch14, t5-base, t5-large, t5-11b, '
    't5-v1_1-xxl'
  )
  assert text.check(name, cache=filled) == [message]
  with refuses(ValueError, message):
    text.build(name, length=4, vocabulary=('a',), cache=filled)
