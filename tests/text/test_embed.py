"""The command that fills a cache, and what the doctor says of a training that reads it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vdm_jax import configuration, data, jobs, models, text
from vdm_jax.errors import InvalidInput
from vdm_jax.text.cache import CachedText
from vdm_jax.text.encoders.published import PUBLISHED
from vdm_jax.tools import doctor

REPOSITORY = Path(__file__).resolve().parents[2]
FILL = (
  'fill it with `python -m vdm_jax.text embed` and the --config flags of the training, or leave data.text_cache empty '
  'to encode while training'
)


@pytest.fixture
def bert(monkeypatch, write_bert) -> str:
  """The folder of a tiny encoder that goes by the name bert-large."""
  monkeypatch.setitem(PUBLISHED, 'bert-large', PUBLISHED['bert-large']._replace(sizes={'hidden_size': 16}))
  return write_bert()


@pytest.fixture
def config(bert, tmp_path):
  config = runpy.run_path(str(REPOSITORY / 'configs' / 'digits.py'))['get_config']()
  config.data.update({'text': 'bert-large', 'text_path': bert, 'text_length': 12, 'text_cache': str(tmp_path / 'kept')})
  return config


def test_the_doctor_asks_for_the_cache_and_then_for_nothing(config, capsys):
  folder = config.data.text_cache
  assert doctor.problems(config) == [f'data.text_cache={folder!r} has no cache.json: {FILL}']
  assert jobs.embed(config) == 0
  told = capsys.readouterr().err.splitlines()
  assert told[-2:] == [
    f'{folder}: 41 captions, 41 encoded now, complete',
    f'train with --config.data.text_cache={folder}',
  ]
  assert doctor.problems(config) == []
  config.data.digits.num_digits = 2
  assert doctor.problems(config) == [
    f"data.text_cache={folder!r} lacks 1600 of the 1600 captions of the data, such as 'a 0 moving down and a 0 moving "
    f"down': {FILL}; only those are computed"
  ]
  config.data.text_dtype = 'bfloat16'
  (problem,) = doctor.problems(config)
  assert problem.startswith(f'data.text_cache={folder!r} is stale: it is of data.text_dtype=float32, not bfloat16. ')


def test_a_fault_of_the_data_is_said_once(config):
  config.data.name = 'digit'
  assert sum('data.name' in problem for problem in doctor.problems(config)) == 1


def test_a_model_reads_the_cache_and_encodes_prompts_of_ones_own(config):
  on_the_fly = models.build({**config.model, 'text_cache': ''})
  jobs.embed(config, stored='float32')
  model = models.build(config.model)
  assert isinstance(model.encode, CachedText)
  prompts = ['a 3 moving left', 'nine and six']
  ours, theirs = model.condition(prompts), on_the_fly.condition(prompts)
  np.testing.assert_array_equal(ours.text, theirs.text)
  np.testing.assert_array_equal(ours.text_mask, theirs.text_mask)


def test_each_host_says_what_is_left_to_the_others(config, capsys, monkeypatch):
  monkeypatch.setattr('vdm_jax.text.cache_writer.BLOCK_CAPTIONS', 4)
  jobs.embed(config, host=(1, 2))
  first = capsys.readouterr().err.splitlines()[-1]
  told = re.fullmatch(r'.*: 41 captions, (\d+) encoded now, (\d+) are left to other hosts', first)
  assert sum(map(int, told.groups())) == 41
  jobs.embed(config, host=(0, 2))
  assert f'41 captions, {told[2]} encoded now, complete' in capsys.readouterr().err


def test_the_choice_of_dtype_reaches_the_encoder(config):
  config.data.text_dtype, config.data.text_cache = 'bfloat16', ''
  assert models.build(config.model).encode.dtype == 'bfloat16'
  config.data.text_dtype = 'float64'
  assert "dtype='float64' must be 'float32' or 'bfloat16'" in doctor.problems(config)


@pytest.mark.parametrize('name', ['none', 'words'])
def test_a_text_function_without_embeddings_is_refused(config, name):
  config.data.text = name
  message = (
    f'data.text={name!r} has no embeddings to keep: name a frozen encoder with --encoder, one of bert-large, '
    'clip-vit-base-patch32, clip-vit-large-patch14, t5-base, t5-large, t5-11b, t5-v1_1-xxl.'
  )
  with pytest.raises(InvalidInput, match=f'^{re.escape(message)}$'):
    jobs.embed(config)


def test_a_cache_needs_a_place(config):
  config.data.text_cache = ''
  message = 'data.text_cache is empty: name the folder for the embeddings, such as --out=data/clips-bert-large.'
  with pytest.raises(InvalidInput, match=f'^{re.escape(message)}$'):
    jobs.embed(config)


def test_the_share_of_a_host_is_read():
  assert [jobs.read_host(value) for value in ('0/1', '3/8')] == [(0, 1), (3, 8)]


@pytest.mark.parametrize('value', ['2', '2/2', '-1/2', '0/0', 'a/b'])
def test_a_share_that_is_none_is_refused(value):
  message = f'--host={value} is no share of the work: give 0/2 to the first of two hosts and 1/2 to the second.'
  with pytest.raises(InvalidInput, match=f'^{re.escape(message)}$'):
    jobs.read_host(value)


def test_a_source_that_cannot_list_its_captions_is_refused(config, monkeypatch):
  monkeypatch.delattr(data.Digits, 'captions')
  message = (
    "data.name='digits' does not list its captions, so their embeddings cannot be computed beforehand; leave "
    'data.text_cache empty.'
  )
  assert doctor.problems(config) == [message]


def test_the_command_as_a_user_meets_it(tmp_path, small_bert_large):
  """Whole runs, each in a process of its own that has the imports behind it."""
  flags = ['--encoder=bert-large', f'--encoder_path={small_bert_large}', f'--out={tmp_path / "kept"}']
  flags += ['--config.data.text_length=12', '--store=float16', '--fsdp=-1']
  refused = {
    (): "the one thing to do here is `embed`, not '':",
    ('embed', *flags): 'whose captions? Name the training with --config=configs/..., or a folder of clips with '
    '--data=FOLDER.',
    ('embed', *flags, '--data=digits', 'digits'): "'digits' is not understood: every argument is a flag, such as "
    '--out=data/text.',
    ('embed', '--data=digits', '--config.data.text_lenth=3'): 'config.data.text_lenth is not a configuration key: did '
    'you mean config.data.text_length?',
  }
  commands = [*refused, ('embed', *flags, '--data=digits')]
  script = f"""
import os, sys
from vdm_jax.text import __main__ as command
for number, arguments in enumerate({commands!r}):
  if not os.fork():
    os.dup2(os.open(f'{tmp_path}/{{number}}', os.O_CREAT | os.O_WRONLY), 2)
    sys.argv = ['vdm_jax.text', *arguments]
    command.run()
  print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
  run = subprocess.run([sys.executable, '-c', script], cwd=REPOSITORY, capture_output=True, text=True)
  *others, last = [(tmp_path / str(number)).read_text() for number in range(len(commands))]
  assert run.stdout.split() == ['2'] * len(refused) + ['0'], run.stderr + last
  for told, message in zip(others, refused.values(), strict=True):
    assert told.startswith(f'error: {message}\n') and 'Traceback' not in told
  assert f'{tmp_path / "kept"}: 41 captions, 41 encoded now, complete' in last
  cached = text.build('bert-large', length=12, cache=str(tmp_path / 'kept'))
  exact, mask = text.build('bert-large', path=small_bert_large, length=12)(['a 3 moving left'])
  ours, same = cached(['a 3 moving left'])
  np.testing.assert_array_equal(mask, same)
  np.testing.assert_allclose(ours, exact, atol=2e-3, rtol=0)


def test_the_keys_of_the_cache_are_stated_once():
  config = configuration.default()
  config.data.update({'text_cache': 'kept', 'text_dtype': 'bfloat16'})
  assert (config.model.text_cache, config.model.text_dtype) == ('kept', 'bfloat16')
