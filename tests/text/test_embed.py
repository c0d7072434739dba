"""The command that fills a cache, and the doctor's findings for a training that reads it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.text_encoders import TINY_BERT

from vdm_jax import configuration, data, jobs, models, text
from vdm_jax.errors import InvalidInput
from vdm_jax.text.cache import CachedText
from vdm_jax.text.encoders import ENCODERS
from vdm_jax.tools import doctor

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def bert(monkeypatch, write_bert) -> str:
  """The folder of a tiny encoder under the name bert-large."""
  monkeypatch.setitem(ENCODERS, 'bert-large', TINY_BERT)
  return write_bert()


@pytest.fixture
def config(bert, tmp_path):
  config = runpy.run_path(str(REPOSITORY / 'configs' / 'digits.py'))['get_config']()
  config.data.update({'text': 'bert-large', 'text_path': bert, 'text_length': 12, 'text_cache': str(tmp_path / 'kept')})
  return config


def test_the_doctor_checks_the_cache(config, capsys):
  folder = config.data.text_cache
  (problem,) = doctor.problems(config)
  assert problem.startswith(
    f'data.text_cache={folder!r} has no cache.json: fill it with `python -m vdm_jax.text embed`'
  )
  assert jobs.embed(config) == 0
  printed = capsys.readouterr().err.splitlines()
  assert printed[-2:] == [
    f'{folder}: 41 captions, 41 encoded now, complete',
    f'train with --config.data.text_cache={folder}',
  ]
  assert doctor.problems(config) == []
  config.data.digits.num_digits = 2
  (problem,) = doctor.problems(config)
  assert problem.startswith(
    f"data.text_cache={folder!r} lacks 1600 of the 1600 captions of the data, such as 'a 0 moving down and a 0 moving "
    "down': "
  )
  config.data.text_dtype = 'bfloat16'
  (problem,) = doctor.problems(config)
  assert problem.startswith(f'data.text_cache={folder!r} is stale: ')
  assert 'data.text_dtype=float32, not bfloat16' in problem


def test_a_problem_of_the_data_is_reported_once(config):
  config.data.name = 'digit'
  assert sum('data.name' in problem for problem in doctor.problems(config)) == 1


def test_a_model_reads_the_cache_and_encodes_other_prompts(config):
  on_the_fly = models.build({**config.model, 'text_cache': ''})
  jobs.embed(config, stored='float32')
  model = models.build(config.model)
  assert isinstance(model.encode, CachedText)
  prompts = ['a 3 moving left', 'nine and six']
  ours, theirs = model.condition(prompts), on_the_fly.condition(prompts)
  np.testing.assert_array_equal(ours.text, theirs.text)
  np.testing.assert_array_equal(ours.text_mask, theirs.text_mask)


def test_each_host_reports_what_is_left_to_the_others(config, capsys, monkeypatch):
  monkeypatch.setattr('vdm_jax.text.cache_writer.BLOCK_CAPTIONS', 4)
  jobs.embed(config, host=(1, 2))
  first = capsys.readouterr().err.splitlines()[-1]
  counts = re.fullmatch(r'.*: 41 captions, (\d+) encoded now, (\d+) left to other hosts', first)
  assert sum(map(int, counts.groups())) == 41
  jobs.embed(config, host=(0, 2))
  assert f'41 captions, {counts[2]} encoded now, complete' in capsys.readouterr().err


def test_the_dtype_reaches_the_encoder(config):
  config.data.text_dtype, config.data.text_cache = 'bfloat16', ''
  assert models.build(config.model).encode.dtype == 'bfloat16'
  config.data.text_dtype = 'float64'
  assert any(problem.startswith("dtype='float64' is not valid") for problem in doctor.problems(config))


@pytest.mark.parametrize('name', ['none', 'words'])
def test_only_frozen_encoders_can_be_embedded(config, name):
  config.data.text = name
  with pytest.raises(InvalidInput, match=f'^data.text={name!r} .* --encoder, one of {", ".join(ENCODERS)}'):
    jobs.embed(config)


def test_the_cache_needs_a_folder(config):
  config.data.text_cache = ''
  with pytest.raises(InvalidInput, match=r'^data\.text_cache is empty: .*--out='):
    jobs.embed(config)


def test_the_share_of_a_host_is_read():
  assert [jobs.read_host(value) for value in ('0/1', '3/8')] == [(0, 1), (3, 8)]


@pytest.mark.parametrize('value', ['2', '2/2', '-1/2', '0/0', 'a/b'])
def test_invalid_shares_are_rejected(value):
  with pytest.raises(InvalidInput, match=f'^--host={value} is not a valid share'):
    jobs.read_host(value)


def test_sources_that_cannot_list_their_captions_are_rejected(config, monkeypatch):
  monkeypatch.delattr(data.Digits, 'captions')
  (problem,) = doctor.problems(config)
  assert problem.startswith("data.name='digits' ") and 'data.text_cache' in problem


def test_the_command(tmp_path, small_bert_large):
  """Complete runs, each in a fork of a process that has imported the command."""
  flags = ['--encoder=bert-large', f'--encoder_path={small_bert_large}', f'--out={tmp_path / "kept"}']
  flags += ['--config.data.text_length=12', '--store=float16', '--fsdp=-1']
  rejected = {
    (): "'' is not a command; the only one is `embed`",
    ('embed', *flags): 'no data set is given: .*--config=configs/.*--data=FOLDER',
    ('embed', *flags, '--data=digits', 'digits'): "'digits' is not a flag: .*--out=data/text",
    ('embed', '--data=digits', '--config.data.text_lenth=3'): r'config\.data\.text_lenth .*config\.data\.text_length',
  }
  commands = [*rejected, ('embed', *flags, '--data=digits')]
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
  assert run.stdout.split() == ['2'] * len(rejected) + ['0'], run.stderr + last
  for printed, message in zip(others, rejected.values(), strict=True):
    assert re.match(f'error: {message}', printed) and 'Traceback' not in printed
  assert f'{tmp_path / "kept"}: 41 captions, 41 encoded now, complete' in last
  cached = text.build('bert-large', length=12, cache=str(tmp_path / 'kept'))
  exact, mask = text.build('bert-large', path=small_bert_large, length=12)(['a 3 moving left'])
  ours, same = cached(['a 3 moving left'])
  np.testing.assert_array_equal(mask, same)
  np.testing.assert_allclose(ours, exact, atol=2e-3, rtol=0)


def test_the_settings_of_the_cache_are_stated_once():
  config = configuration.default()
  config.data.update({'text_cache': 'kept', 'text_dtype': 'bfloat16'})
  assert (config.model.text_cache, config.model.text_dtype) == ('kept', 'bfloat16')
