"""The command line run by several processes: the preflight, and that invalid input of one of them ends all."""

from __future__ import annotations

import json
import re
import sys

import pytest
from helpers.process_group import REPOSITORY, ProcessGroup, free_port

from vdm_jax import checkpoints, partitioning
from vdm_jax.benchmarks.train_step import load
from vdm_jax.errors import InvalidInput
from vdm_jax.jobs.preflight import code_hash, differences, preflight

MAIN = [sys.executable, '-m', 'vdm_jax.main', '--config=configs/digits.py', '--config.data.batch_size=8']
SENTENCE = (
  r'preflight: 2 processes on 1 host with 4 devices \(cpu\) agree on code [0-9a-f]{12} and configuration '
  r'[0-9a-f]{12}, share .* and all-reduce correctly: ready after \d+\.\d s\.'
)


def commands(*arguments, different=()):
  """Commands of two processes of one group; the second has further arguments."""
  meeting = [f'--coordinator=localhost:{free_port()}', '--num_processes=2']
  each = [MAIN + [*arguments, *meeting, f'--process_id={i}'] for i in range(2)]
  return [each[0], [*each[1], *different]]


def test_the_preflight_ends_with_one_sentence(tmp_path):
  """As srun starts them: the rendezvous is read from SLURM's variables."""
  slurm = {'SLURM_JOB_ID': str(free_port()), 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '2'}
  environments = [slurm | {'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)} for i in range(2)]
  command = [*MAIN, '--mode=preflight', f'--workdir={tmp_path / "run"}']
  with ProcessGroup(tmp_path, [command] * 2, devices=2, environments=environments) as group:
    assert group.wait(60) == [0, 0], group.texts()
  said = [line for line in group.texts()[0].splitlines() if not line.startswith('[Gloo]')]
  assert re.fullmatch(SENTENCE, said[-1])
  assert 'preflight' not in group.texts()[1], 'only one process prints'
  assert list((tmp_path / 'run').iterdir()) == []


@pytest.mark.slow
def test_the_preflight_names_a_process_that_differs(tmp_path):
  command = commands('--mode=preflight', f'--workdir={tmp_path / "run"}', different=['--config.seed=7'])
  with ProcessGroup(tmp_path, command, devices=1) as group:
    assert group.wait(60) == [2, 2], group.texts()
  assert re.search(
    r'error: process 1 on \S+ has configuration [0-9a-f]{12}, but process 0 on \S+ has configuration [0-9a-f]{12}: '
    r'.*--config',
    group.texts()[0],
  )


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_named(tmp_path):
  command = commands('--mode=preflight')
  command = [[*line, f'--workdir={tmp_path / str(i)}'] for i, line in enumerate(command)]
  with ProcessGroup(tmp_path / 'logs', command, devices=1) as group:
    assert group.wait(60) == [2, 2], group.texts()
  for text in group.texts():
    assert f'error: process 1: --workdir={tmp_path / "1"} on ' in text
    assert 'process 0 writes to' in text


@pytest.mark.slow
@pytest.mark.parametrize(
  ('different', 'message'),
  [
    (['--config.data.name=folder'], 'process 1: data.path is empty, but it must name a folder of clips.'),
    (['--config.training.learning_rat=1'], 'process 1 failed: config.training.learning_rat is not a configuration key'),
  ],
)
def test_invalid_input_of_one_process_ends_all_before_any_work(tmp_path, different, message):
  with ProcessGroup(tmp_path, commands(f'--workdir={tmp_path / "run"}', different=different), devices=1) as group:
    assert group.wait(100) == [2, 2], group.texts()
  assert f'error: {message}' in group.texts()[0]
  assert not list((tmp_path / 'run').glob('*')), 'nothing is written'


@pytest.mark.slow
def test_sampling_is_the_work_of_one_process(tmp_path):
  with ProcessGroup(tmp_path, [command + ['--mode=sample'] for command in commands()], devices=1) as group:
    assert group.wait(60) == [2, 2]
  assert all(text.startswith('error: --mode=sample ') and '--coordinator' in text for text in group.texts())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_train_by_the_command_with_previews_and_held_out_loss(tmp_path):
  """Rows, checkpoints and samples are those of a single process."""
  toy = {
    'model.base_channels': 8,
    'model.channel_multipliers': '(1,)',
    'model.attention_resolutions': '(8,)',
    'model.head_width': 4,
    'model.norm_groups': 4,
    'model.embedding_width': 16,
    'model.embedding_layers': 1,
    'data.num_images': 2,
    'training.num_steps': 6,
    'training.warmup_steps': 2,
    'training.log_every': 3,
    'training.checkpoint_every': 3,
    'training.preview_every': 3,
    'training.heldout_every': 3,
    'sampling.num_steps': 3,
  }
  options = [f'--config.{key}={value}' for key, value in toy.items()]
  with ProcessGroup(tmp_path / 'logs', commands(f'--workdir={tmp_path / "two"}', *options), devices=2) as group:
    assert group.wait(800) == [0, 0], group.texts()
  with ProcessGroup(tmp_path / 'log', [[*MAIN, f'--workdir={tmp_path / "one"}', *options]], devices=1) as group:
    assert group.wait(800) == [0], group.texts()
  assert checkpoints.steps(tmp_path / 'two') == [3, 6]
  files = [sorted(file.name for file in (tmp_path / name / 'samples').iterdir()) for name in ('one', 'two')]
  assert files[0] == files[1] and len(files[0]) == 4
  texts = [(tmp_path / name / 'metrics.jsonl').read_text() for name in ('one', 'two')]
  rows = [[json.loads(line) for line in text.splitlines()] for text in texts]
  for one, two in zip(*rows, strict=True):
    keys = [key for key in one if key.startswith(('train/', 'heldout/'))]
    assert 'heldout/loss' in keys
    assert {key: one[key] for key in keys} == pytest.approx({key: two[key] for key in keys}, rel=1e-4)


def test_the_preflight_rejects_a_batch_that_does_not_split(tmp_path, monkeypatch):
  config = load(f'{REPOSITORY}/configs/digits.py', ['data.batch_size=8', 'training.accumulation_steps=3'])
  with pytest.raises(InvalidInput, match='data.batch_size=8 .*training.accumulation_steps=3.* 6 or 9'):
    preflight(config, str(tmp_path))
  config.training.accumulation_steps = 1
  assert preflight(config, str(tmp_path)) == 0
  monkeypatch.setattr(partitioning, 'batch_rows', lambda mesh, size: (1, 0, *range(2, size)))
  with pytest.raises(InvalidInput, match='^2 of the 8 rows of a batch '):
    preflight(config, str(tmp_path))


FACTS = {'host': 'a', 'devices': 8, 'local_devices': 4, 'code': 'c0de', 'jax': '1', 'config': 'c0ff'}


def test_differences_are_counted_and_have_a_fix():
  assert differences([FACTS] * 3) == []
  other = FACTS | {'host': 'b', 'code': 'dead', 'local_devices': 1}
  devices, code = differences([FACTS, FACTS, other, other])
  assert re.match(r'process 2 on b has 1 .*\(as do 1 more\), but process 0 on a has 4 ', devices)
  assert re.match(r'process 2 on b .* dead \(as do 1 more\), but process 0 on a .* c0de: ', code)


def test_the_hash_of_the_code_changes_with_any_of_its_files(tmp_path):
  (tmp_path / 'a.py').write_text('x = 1\n')
  hashes = {code_hash(tmp_path)}
  for name, text in (('a.py', 'x = 2\n'), ('b.py', ''), ('sub.py', '')):
    (tmp_path / name).write_text(text)
    hashes.add(code_hash(tmp_path))
  (tmp_path / 'sub.py').rename(tmp_path / 'sup.py')
  hashes.add(code_hash(tmp_path))
  assert len(hashes) == 5
