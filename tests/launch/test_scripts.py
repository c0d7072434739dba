"""The launch scripts, with stand-ins for the programs they call: what is started, in which order, and what follows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / 'launch'

# Notes how it was called, then ends with the next status of a list, or 0.
STAND_IN = """#!/usr/bin/env bash
name=$(basename "$0")
call="$name$(printf ' [%s]' "$@") gpus=${CUDA_VISIBLE_DEVICES:-}"
echo "$call" >> "$CALLS" # in one write: several processes call at the same time
if [[ $name == nvidia-smi ]]; then printf 'GPU %s\\n' 0 1 2 3; fi
if [[ $name == gcloud && " $* " == *' describe '* ]]; then cat "$CALLS.state"; fi
if [[ $name == python3 && " $* " != *preflight* ]]; then
  until mkdir "$CALLS.turn" 2>/dev/null; do sleep 0.01; done # else two may take the same line
  status=$(head -n 1 "$CALLS.statuses" 2>/dev/null || true)
  sed -i 1d "$CALLS.statuses" 2>/dev/null || true
  rmdir "$CALLS.turn"
  if [[ ${status:-0} == frozen ]]; then kill -STOP $$; fi
  if [[ ${status:-0} == hang ]]; then
    trap 'echo stopped >> "$CALLS"; exit 75' TERM
    echo waiting >> "$CALLS"
    while true; do sleep 0.05; done
  fi
  exit "${status:-0}"
fi
if [[ $name == srun && " $* " == *preflight* && -e "$CALLS.unfit" ]]; then exit 2; fi
if [[ $name == srun && " $* " != *preflight* ]]; then
  if [[ -e "$CALLS.saves" ]]; then mkdir -p "$(cat "$CALLS.saves")"; fi
  exit "$(cat "$CALLS.statuses" 2>/dev/null || echo 0)"
fi
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
  """A file that the stand-ins on PATH write their calls to."""
  programs = tmp_path / 'bin'
  programs.mkdir()
  for name in ('python3', 'nvidia-smi', 'gcloud', 'sbatch', 'srun', 'scontrol'):
    (programs / name).write_text(STAND_IN)
    (programs / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{programs}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('CALLS', str(tmp_path / 'calls'))
  monkeypatch.setenv('REPOSITORY', 'https://example.org/vdm_jax.git')
  monkeypatch.delenv('PYTHON', raising=False)
  return tmp_path / 'calls'


def launch(script, *arguments, status=0, **env):
  done = subprocess.run(
    [LAUNCH / script, *arguments], capture_output=True, text=True, env=os.environ | env, timeout=60, cwd=REPOSITORY
  )
  assert done.returncode == status, done.stdout + done.stderr
  return done


def lines(calls):
  return calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
  ('script', 'arguments'),
  [
    ('multi_gpu.sh', ()),
    ('multi_gpu.sh', ('--processes=4',)),
    ('slurm.sh', ()),
    ('tpu_pod.sh', ('create', '--name=a', '--zone=z', '--type=v4-8')),
    ('tpu_pod.sh', ('run', '--name=a', '--zone=z')),
    ('tpu_pod.sh', ('resume', '--name=a', '--zone=z', '--type=v4-8')),
    ('tpu_pod.sh', ('delete', '--name=a', '--zone=z')),
  ],
)
def test_a_dry_run_prints_what_it_would_call_and_calls_nothing(calls, tmp_path, script, arguments):
  workdir = tmp_path / 'run'
  rest = () if arguments[:1] in (('create',), ('delete',)) else ('--config=configs/digits.py', f'--workdir={workdir}')
  done = launch(script, *arguments, *rest, '--dry_run')
  assert lines(calls) == [] and not workdir.exists()
  printed = done.stdout.splitlines()
  if rest and script != 'slurm.sh':
    assert '--mode=preflight' in printed[0] and f'--workdir={workdir}' in printed[-1]
  assert all(word in done.stdout for word in arguments if word in ('create', 'delete'))


def test_one_process_drives_all_gpus_after_a_preflight(calls, tmp_path):
  launch('multi_gpu.sh', '--config=c.py', f'--workdir={tmp_path}', '--config.training.num_steps=9')
  rest = f'[--config=c.py] [--workdir={tmp_path}] [--config.training.num_steps=9] gpus='
  assert lines(calls) == [f'python3 [-m] [vdm_jax.main] {m}{rest}' for m in ('[--mode=preflight] ', '')]


def test_several_processes_share_the_gpus_and_meet(calls, tmp_path):
  launch('multi_gpu.sh', '--processes=2', '--config=c.py', f'--workdir={tmp_path}', PORT='1234')
  started = [line for line in lines(calls) if 'python3' in line and 'preflight' not in line]
  common = f'python3 [-m] [vdm_jax.main] [--config=c.py] [--workdir={tmp_path}] [--coordinator=localhost:1234]'
  assert sorted(started) == [
    f'{common} [--num_processes=2] [--process_id=0] gpus=0,1', f'{common} [--num_processes=2] [--process_id=1] gpus=2,3'
  ]  # fmt: skip
  assert sum('preflight' in line for line in lines(calls)) == 2


def test_gpus_that_do_not_split_are_named(calls, tmp_path):
  done = launch('multi_gpu.sh', '--processes=3', '--config=c.py', f'--workdir={tmp_path}', status=2)
  assert done.stderr == 'error: 4 GPUs cannot be shared out evenly to 3 processes: choose a divisor.\n'


def starts(calls):
  return sum('vdm_jax.main' in line and 'preflight' not in line for line in lines(calls))


@pytest.mark.parametrize(
  ('statuses', 'status', 'expected'),
  [
    (['0'], 0, 1),
    (['75'], 75, 1),  # asked to stop
    (['2'], 2, 1),  # bad input is not mended by starting again
    (['1', '0'], 0, 2),
    (['1', '1', '0'], 1, 2),  # twice without a new checkpoint
  ],
)
def test_a_crash_starts_again_only_where_that_can_help(calls, tmp_path, statuses, status, expected):
  Path(f'{calls}.statuses').write_text('\n'.join(statuses) + '\n')
  launch('multi_gpu.sh', '--config=c.py', f'--workdir={tmp_path}', status=status)
  assert starts(calls) == expected


def test_a_process_that_does_not_end_with_the_others_is_killed(calls, tmp_path):
  """F07: a frozen one would keep the script, and so the next attempt, waiting for good."""
  Path(f'{calls}.statuses').write_text('frozen\n70\n0\n0\n')
  arguments = ('--processes=2', '--config=c.py', f'--workdir={tmp_path}')
  done = launch('multi_gpu.sh', *arguments, PATIENCE='1')
  assert starts(calls) == 4
  assert re.search(r'the run ended with status (70|137); starting again from step 0\.', done.stderr)


def test_a_signal_to_the_script_reaches_the_run(calls, tmp_path):
  Path(f'{calls}.statuses').write_text('hang\n')
  command = [LAUNCH / 'multi_gpu.sh', '--config=c.py', f'--workdir={tmp_path}']
  with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
    try:
      while 'waiting' not in lines(calls):
        assert process.poll() is None
      process.terminate()
      assert process.wait(30) == 75
    finally:
      process.kill()
  assert lines(calls)[-1] == 'stopped'


def test_a_job_is_submitted_with_a_task_per_gpu_and_asks_to_be_told_before_its_end(calls, tmp_path):
  workdir = tmp_path / 'runs' / 't2v'
  launch('slurm.sh', '--nodes=2', '--gpus=4', '--partition=big', '--config=c.py', f'--workdir={workdir}')
  (call,) = lines(calls)
  for option in (
    'nodes=2', 'ntasks-per-node=4', 'gpus-per-node=4', 'partition=big', 'requeue', 'signal=TERM@120', 'job-name=t2v',
  ):  # fmt: skip
    assert f' [--{option}]' in call
  assert call.endswith(f'slurm.sh] [--inside] [--config=c.py] [--workdir={workdir}] gpus=')
  assert workdir.is_dir(), 'sbatch does not make the folder of its log'


@pytest.mark.parametrize(
  ('ended', 'status', 'requeued'), [('0', 0, False), ('75', 0, True), ('1', 1, False), ('2', 2, False)]
)
def test_a_job_that_stopped_goes_back_to_the_queue(calls, tmp_path, ended, status, requeued):
  Path(f'{calls}.statuses').write_text(ended)
  launch('slurm.sh', '--inside', '--config=c.py', f'--workdir={tmp_path}', status=status, SLURM_JOB_ID='17')
  first, second, *rest = lines(calls)
  assert first.startswith('srun ') and '[--mode=preflight]' in first
  assert second.startswith('srun ') and '[--mode=preflight]' not in second
  assert rest == (['scontrol [requeue] [17] gpus='] if requeued else [])


@pytest.mark.parametrize(
  ('ended', 'saved', 'requeued'), [('70', '300', True), ('134', '300', True), ('70', '100', False), ('2', '300', False)]
)
def test_a_job_that_crashed_goes_back_to_the_queue_if_it_got_further(calls, tmp_path, ended, saved, requeued):
  (tmp_path / 'checkpoints' / '200').mkdir(parents=True)
  Path(f'{calls}.statuses').write_text(ended)
  Path(f'{calls}.saves').write_text(str(tmp_path / 'checkpoints' / saved))
  status = 0 if requeued else int(ended)
  done = launch('slurm.sh', '--inside', '--config=c.py', f'--workdir={tmp_path}', status=status, SLURM_JOB_ID='17')
  assert lines(calls)[2:] == (['scontrol [requeue] [17] gpus='] if requeued else [])
  assert (f'with status {ended} at step 300: job 17 goes back to the queue.' in done.stderr) == requeued


def test_a_job_whose_nodes_do_not_agree_does_not_train(calls, tmp_path):
  Path(f'{calls}.unfit').write_text('')
  launch('slurm.sh', '--inside', '--config=c.py', f'--workdir={tmp_path}', status=2, SLURM_JOB_ID='17')
  assert len(lines(calls)) == 1


def test_a_requeued_job_needs_no_preflight(calls, tmp_path):
  launch('slurm.sh', '--inside', '--config=c.py', f'--workdir={tmp_path}', SLURM_JOB_ID='17', SLURM_RESTART_COUNT='1')
  assert len(lines(calls)) == 1 and 'preflight' not in lines(calls)[0]


SLICE = ('--name=vdm', '--zone=us-central2-b')


def test_a_slice_is_made_with_this_commit_on_every_worker(calls):
  launch('tpu_pod.sh', 'create', *SLICE, '--type=v4-256', '--spot', '--project=p')
  made, *installed = calls.read_text().split('\ngcloud ')
  assert made.startswith('gcloud [compute] [tpus] [tpu-vm] [create] [vdm] [--project=p] [--zone=us-central2-b]')
  assert '[--accelerator-type=v4-256]' in made and '[--spot]' in made
  (command,) = installed
  commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
  assert '[ssh] [vdm]' in command and '[--worker=all]' in command
  assert f'git checkout --quiet {commit}' in command
  assert "git clone --quiet 'https://example.org/vdm_jax.git'" in command


def test_all_workers_of_a_slice_check_and_then_train(calls):
  launch('tpu_pod.sh', 'run', *SLICE, '--config=configs/digits.py', '--workdir=/mnt/a run')
  first, second = lines(calls)
  for call, mode in ((first, '--mode=preflight '), (second, '')):
    assert '[ssh] [vdm]' in call and '[--worker=all]' in call
    assert f"-m vdm_jax.main {mode}--coordinator=auto '--config=configs/digits.py' '--workdir=/mnt/a run'" in call


@pytest.mark.parametrize(('state', 'actions'), [('READY', []), ('PREEMPTED', ['delete', 'create']), ('', ['create'])])
def test_resuming_makes_a_slice_anew_that_is_gone(calls, state, actions):
  Path(f'{calls}.state').write_text(state)
  launch('tpu_pod.sh', 'resume', *SLICE, '--type=v4-256', '--config=configs/digits.py', '--workdir=/mnt/run')
  text = calls.read_text()
  done = [action for action in ('delete', 'create') if f'[{action}] [vdm]' in text]
  assert done == actions
  assert lines(calls)[-1].count('--coordinator=auto') == 1


@pytest.mark.parametrize(
  ('script', 'arguments', 'message'),
  [
    ('multi_gpu.sh', ['--config=c.py'], '--workdir=DIR is missing: name the folder of the run.'),
    ('multi_gpu.sh', ['--workdir=d'], '--config=FILE is missing: name the experiment, such as configs/digits.py.'),
    ('multi_gpu.sh', ['--processes=two'], '--processes=two is no number of processes.'),
    ('slurm.sh', ['--gpus=all'], '--gpus=all is no number of GPUs.'),
    ('slurm.sh', [], '--workdir=DIR is missing: name the folder of the run, on a shared file system.'),
    ('tpu_pod.sh', ['run', '--zone=z'], '--name=NAME is missing: how the slice is called.'),
    ('tpu_pod.sh', ['create', *SLICE], '--type=TYPE is missing: the kind of slice, such as v4-256.'),
    ('tpu_pod.sh', ['start', *SLICE], 'start is not understood: choose create, run, resume or delete.'),
    ('tpu_pod.sh', ['run', *SLICE], '--workdir=DIR is missing: name the folder of the run, the same on all workers.'),
  ],
)
def test_what_is_missing_is_named(calls, script, arguments, message):
  assert launch(script, *arguments, status=2).stderr == f'error: {message}\n'
  assert lines(calls) == []


@pytest.mark.skipif(not shutil.which('shellcheck'), reason='shellcheck is not installed')
def test_shellcheck_has_nothing_to_say():
  scripts = [*sorted(LAUNCH.glob('*.sh')), REPOSITORY / '.ci' / 'run']
  done = subprocess.run(['shellcheck', *scripts], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
