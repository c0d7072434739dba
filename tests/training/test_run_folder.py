"""Who may write to a workdir, and which configuration it belongs to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.standin import make_config

from vdm_jax.training import run_folder

REPOSITORY = Path(__file__).resolve().parents[2]

HOLD = """
import sys, time
from pathlib import Path
from vdm_jax.training import run_folder
with run_folder.lock(Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(60)
"""


@contextlib.contextmanager
def held_by_another_process(workdir):
  env = dict(os.environ, PYTHONPATH=str(REPOSITORY))
  command = [sys.executable, '-c', HOLD, str(workdir)]
  with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == 'held\n'
    try:
      yield process
    finally:
      process.send_signal(signal.SIGKILL)


def test_a_second_job_is_refused_until_the_first_is_gone(tmp_path):
  """F42: and a lock whose job was killed is taken over."""
  with held_by_another_process(tmp_path) as process:
    with pytest.raises(RuntimeError) as error, run_folder.lock(tmp_path):
      pass
    assert str(error.value) == (
      f'{tmp_path} is in use by process {process.pid} on {socket.gethostname()}: '
      'stop that job, or use another --workdir.'
    )
  with run_folder.lock(tmp_path):
    pass


def test_one_process_cannot_hold_it_twice_but_can_hold_it_again(tmp_path):
  refused = pytest.raises(RuntimeError, match='is in use by process')
  with run_folder.lock(tmp_path), refused, run_folder.lock(tmp_path):
    pass
  with run_folder.lock(tmp_path):
    pass


@pytest.mark.parametrize('change', [{'boot': 'another'}, {'process_start': '1'}, {'pid': 2**22 + 1}])
def test_a_restarted_machine_or_a_reused_number_does_not_hold_it(tmp_path, change):
  with run_folder.lock(tmp_path):
    mine = json.loads((tmp_path / 'run.lock').read_text())
  (tmp_path / 'run.lock').write_text(json.dumps(mine | change))
  with run_folder.lock(tmp_path):
    pass


@pytest.mark.parametrize(('age', 'stale'), [(10, False), (600, True)])
def test_another_machine_holds_it_while_its_heart_beats(tmp_path, age, stale):
  path = tmp_path / 'run.lock'
  path.write_text(json.dumps({'host': 'elsewhere', 'pid': 1, 'boot': '', 'process_start': '1'}))
  then = path.stat().st_mtime - age
  os.utime(path, (then, then))
  with contextlib.ExitStack() as stack:
    if not stale:
      stack.enter_context(pytest.raises(RuntimeError, match='process 1 on elsewhere'))
    stack.enter_context(run_folder.lock(tmp_path))


def test_the_heart_beats(tmp_path, monkeypatch):
  monkeypatch.setattr(run_folder, 'HEARTBEAT_SECONDS', 0.01)
  with run_folder.lock(tmp_path):
    os.utime(tmp_path / 'run.lock', (0, 0))
    for _ in range(500):
      if (tmp_path / 'run.lock').stat().st_mtime > 0:
        return
      signal.sigtimedwait([], 0.01)
  raise AssertionError('the lock was never touched')


def test_a_lock_cut_short_is_stale(tmp_path):
  (tmp_path / 'run.lock').write_text('{"host": "el')
  with run_folder.lock(tmp_path):
    pass


def test_a_workdir_that_cannot_be_written_is_named_first(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError) as error:
    run_folder.prepare(tmp_path / 'file' / 'run')
  assert str(error.value) == (
    f'--workdir={tmp_path}/file/run cannot be written to (Not a directory): choose a folder of your own.'
  )
  with pytest.raises(ValueError) as error:
    run_folder.prepare('gs://bucket/run')
  assert str(error.value) == (
    '--workdir=gs://bucket/run is a URL: mount the bucket (gcsfuse, s3fs) and name the mounted folder.'
  )


def test_the_same_configuration_and_what_may_change_pass(tmp_path):
  config = make_config()
  run_folder.check_same_run(tmp_path, config)
  run_folder.write_config(tmp_path, config)
  run_folder.check_same_run(tmp_path, config)
  config.training.update(num_steps=1000, checkpoint_every=7, preview_every=3, heldout_every=5)
  config.training.update(keep_checkpoints=9, tensorboard=True)
  config.sampling.num_steps = 99
  config.mesh.fsdp = 8
  config.data.path = '/elsewhere'
  run_folder.check_same_run(tmp_path, config)
  run_folder.write_config(tmp_path, config)
  assert json.loads((tmp_path / 'config.json').read_text()) == config.to_dict()


def test_another_configuration_is_refused_with_the_keys_that_differ(tmp_path):
  """F15."""
  run_folder.write_config(tmp_path, make_config())
  config = make_config(learning_rate=0.5, optimizer='lamb', num_steps=99)
  config.data.batch_size = 16
  config.model = {'network': 'standin', 'height': 4, 'pad_rows': 0}
  config.model.width = 32
  with pytest.raises(ValueError) as error:
    run_folder.check_same_run(tmp_path, config)
  assert str(error.value) == (
    f'{tmp_path} holds a run of another configuration:\n'
    '  data.batch_size: 8 in the workdir, 16 now\n'
    '  model.dropout: 0.0 in the workdir, absent now\n'
    '  model.width: absent in the workdir, 32 now\n'
    '  training.learning_rate: 0.01 in the workdir, 0.5 now\n'
    '  training.optimizer: "adam" in the workdir, "lamb" now\n'
    'Use another --workdir, or set these keys back.'
  )


def test_tuples_are_the_lists_that_json_makes_of_them(tmp_path):
  config = make_config()
  config.model.widths = (1, 2)
  run_folder.write_config(tmp_path, config)
  run_folder.check_same_run(tmp_path, config)


def test_checkpoints_without_a_configuration_are_refused(tmp_path):
  (tmp_path / 'checkpoints' / '7').mkdir(parents=True)
  with pytest.raises(ValueError) as error:
    run_folder.check_same_run(tmp_path, make_config())
  message = f'{tmp_path} has checkpoints but no config.json: put the file back, or use another --workdir.'
  assert str(error.value) == message


def test_the_environment_names_versions_devices_and_commit(tmp_path):
  run_folder.write_environment(tmp_path)
  environment = json.loads((tmp_path / 'env.json').read_text())
  assert re.match(r'\d+\.\d+', environment['versions']['jax'])
  assert environment['devices']['platform'] == 'cpu'
  assert environment['git_commit'] is None or re.fullmatch('[0-9a-f]{40}', environment['git_commit'])
  assert [path.name for path in tmp_path.iterdir()] == ['env.json']
