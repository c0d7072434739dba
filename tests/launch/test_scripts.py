"""The launch scripts, with stand-ins for the programs they call: which commands run, in which order and environment."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.messages import naming
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / 'launch'
SLICE = ('--name=vdm', '--zone=us-central2-b')

# Records how it was called, then exits with the next status of a list, or 0.
STAND_IN = """#!/usr/bin/env bash
name=$(basename "$0")
call="$name$(printf ' [%s]' "$@") gpus=${CUDA_VISIBLE_DEVICES:-}"
echo "$call" >> "$CALLS" # one write, because several processes call at the same time
if [[ $name == nvidia-smi && -e "$CALLS.broken" ]]; then echo 'No devices were found'; exit 6; fi
if [[ $name == nvidia-smi ]]; then printf '%s\\n' 0 1 2 3; fi
if [[ $name == gcloud && " $* " == *' list '* ]]; then cat "$CALLS.state"; fi
if [[ $name == gcloud && " $* " == *' ssh '* ]]; then # on all workers at once; exits with a nonzero status of theirs
  command=${*: -1} status=0 pids=()
  for home in "$CALLS".worker*; do
    [[ ! -d $home ]] || { (export HOME=$home; cd; exec bash -c "${command#--command=}") & pids+=($!); }
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  exit "$status"
fi
if [[ $name == python3 && " $* " == *' pip '* ]]; then mkdir -p .uv/bin && cp "$0" .uv/bin/uv; exit 0; fi
if [[ $name == uv && $1 == venv && -e "$CALLS.lacking" ]]; then exit 2; fi
if [[ $name == git && $1 == init ]]; then mkdir -p "${*: -1}"; fi
if [[ $name == python3 ]]; then env | grep ^XLA_.*MEM > "$CALLS.memory"; fi
if [[ $name == python3 && " $* " == *preflight* && -e "$CALLS.asked" ]]; then
  trap '' TERM
  kill -TERM "$PPID"
  sleep 0.2
fi
if [[ $name == python3 && " $* " != *preflight* ]]; then
  until mkdir "$CALLS.turn" 2>/dev/null; do sleep 0.01; done # or two may take the same line
  list="$CALLS.statuses"
  [[ ! -e "$HOME.statuses" ]] || list="$HOME.statuses" # of this worker alone
  status=$(head -n 1 "$list" 2>/dev/null || true)
  sed -i 1d "$list" 2>/dev/null || true
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
  """A file to which the stand-ins on PATH write their calls."""
  programs = tmp_path / 'bin'
  programs.mkdir()
  for name in ('python3', 'nvidia-smi', 'gcloud', 'sbatch', 'srun', 'scontrol'):
    (programs / name).write_text(STAND_IN)
    (programs / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{programs}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('CALLS', str(tmp_path / 'calls'))
  monkeypatch.setenv('REPOSITORY', 'https://example.org/vdm_jax.git')
  for name in ('PYTHON', 'CUDA_VISIBLE_DEVICES', 'XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'):
    monkeypatch.delenv(name, raising=False)
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
    ('tpu_pod.sh', ('follow', '--name=a', '--zone=z')),
    ('tpu_pod.sh', ('stop', '--name=a', '--zone=z')),
    ('tpu_pod.sh', ('resume', '--name=a', '--zone=z', '--type=v4-8')),
    ('tpu_pod.sh', ('delete', '--name=a', '--zone=z')),
  ],
)
def test_a_dry_run_prints_the_commands_and_runs_none(calls, tmp_path, script, arguments):
  workdir = tmp_path / 'run'
  bare = arguments[:1] in (('create',), ('delete',), ('follow',), ('stop',))
  rest = () if bare else ('--config=configs/digits.py', f'--workdir={workdir}')
  done = launch(script, *arguments, *rest, '--dry_run')
  assert lines(calls) == [] and not workdir.exists()
  assert bare or f'--workdir={workdir}' in done.stdout
  if script == 'multi_gpu.sh':
    assert '--mode=preflight' in done.stdout.splitlines()[0]
  assert all(word in done.stdout for word in arguments if word in ('create', 'delete', 'follow', 'stop'))


def test_a_dry_run_of_resume_prints_the_condition_of_each_command(calls):
  done = launch(
    'tpu_pod.sh', 'resume', *SLICE, '--type=v4-8', '--spot', '--config=c.py', '--workdir=/mnt/run', '--dry_run'
  )
  printed = [line.split("'")[9] if line.startswith("'") else line for line in done.stdout.splitlines()]
  comments = [line for line in printed if line.startswith('#')]
  assert [word for word in printed if word not in comments] == ['delete', 'create', 'ssh', 'ssh', 'ssh']
  assert [printed.index(comment) for comment in comments] == [0, 2, 4]
  assert 'PREEMPTED, TERMINATED or STOPPED' in comments[0] and 'READY' in comments[2]


def test_one_process_drives_all_gpus_after_a_preflight(calls, tmp_path):
  launch('multi_gpu.sh', '--config=c.py', f'--workdir={tmp_path}', '--config.training.num_steps=9')
  rest = f'[--config=c.py] [--workdir={tmp_path}] [--config.training.num_steps=9] gpus='
  assert lines(calls) == [f'python3 [-m] [vdm_jax.main] {m}{rest}' for m in ('[--mode=preflight] ', '')]


def test_several_processes_share_the_gpus_and_a_coordinator(calls, tmp_path):
  launch('multi_gpu.sh', '--processes=2', '--config=c.py', f'--workdir={tmp_path}', PORT='1234')
  started = [line for line in lines(calls) if 'python3' in line and 'preflight' not in line]
  common = f'python3 [-m] [vdm_jax.main] [--config=c.py] [--workdir={tmp_path}] [--coordinator=localhost:1234]'
  assert sorted(started) == [
    f'{common} [--num_processes=2] [--process_id=0] gpus=0,1',
    f'{common} [--num_processes=2] [--process_id=1] gpus=2,3',
  ]
  assert sum('preflight' in line for line in lines(calls)) == 2


@pytest.mark.parametrize(('visible', 'shares'), [('2,3', ['2', '3']), ('7,5,GPU-a,GPU-b', ['7,5', 'GPU-a,GPU-b'])])
def test_only_the_visible_gpus_are_shared(calls, tmp_path, visible, shares):
  arguments = ('--processes=2', '--config=c.py', f'--workdir={tmp_path}')
  launch('multi_gpu.sh', *arguments, CUDA_VISIBLE_DEVICES=visible)
  assert not any('nvidia-smi' in line for line in lines(calls))
  assert sorted(line.split('gpus=')[1] for line in lines(calls) if 'preflight' not in line) == sorted(shares)
  printed = launch('multi_gpu.sh', *arguments, '--dry_run', CUDA_VISIBLE_DEVICES=visible).stdout
  assert re.findall("'CUDA_VISIBLE_DEVICES=(.*?)'", printed) == 2 * shares


@pytest.mark.parametrize(
  ('processes', 'visible', 'named'),
  [
    (3, None, '--processes=3 does not divide 4 GPUs'),
    (8, None, '--processes=8 needs as many GPUs, but there are 4'),
    (2, '1', '--processes=2 needs as many GPUs, but there are 1'),
    (2, '', '--processes=2 needs as many GPUs, but there are 0'),
    (2, 'broken', 'nvidia-smi lists no GPUs for 2 processes'),
  ],
)
def test_gpus_that_cannot_be_shared_equally_are_an_error(calls, tmp_path, processes, visible, named):
  """A process without a GPU would silently train on the CPU."""
  env = {} if visible in (None, 'broken') else {'CUDA_VISIBLE_DEVICES': visible}
  if visible == 'broken':
    Path(f'{calls}.broken').write_text('')
  done = launch('multi_gpu.sh', f'--processes={processes}', '--config=c.py', f'--workdir={tmp_path}', status=2, **env)
  assert done.stderr.startswith(f'error: {named}') and starts(calls) == 0


@pytest.mark.parametrize('name', [None, 'XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'])
def test_nearly_all_memory_of_a_gpu_is_used_by_default(calls, tmp_path, name):
  """JAX allocates three quarters by default, and rejects both names at once."""
  given = {name: '0.5'} if name else {}
  launch('multi_gpu.sh', '--config=c.py', f'--workdir={tmp_path}', **given)
  expected = f'{name}=0.5\n' if name else 'XLA_CLIENT_MEM_FRACTION=0.92\n'
  assert Path(f'{calls}.memory').read_text() == expected
  launch('slurm.sh', '--inside', LAUNCH, '--config=c.py', f'--workdir={tmp_path}', SLURM_JOB_ID='17', **given)
  assert sum('[XLA_CLIENT_MEM_FRACTION=0.92]' in line for line in lines(calls)) == (0 if name else 2)


def starts(calls):
  return sum('vdm_jax.main' in line and 'preflight' not in line for line in lines(calls))


@pytest.mark.parametrize(
  ('statuses', 'status', 'expected'),
  [
    (['0'], 0, 1),
    (['75'], 75, 1),  # stopped on request
    (['2'], 2, 1),  # invalid input: a restart does not help
    (['1', '0'], 0, 2),
    (['1', '1', '0'], 1, 2),  # twice without a new checkpoint
  ],
)
def test_a_crash_restarts_only_if_that_can_help(calls, tmp_path, statuses, status, expected):
  Path(f'{calls}.statuses').write_text('\n'.join(statuses) + '\n')
  launch('multi_gpu.sh', '--config=c.py', f'--workdir={tmp_path}', status=status)
  assert starts(calls) == expected


def test_a_process_that_hangs_after_the_others_ended_is_killed(calls, tmp_path):
  """A process that hangs would keep the script, and so the next attempt, waiting forever."""
  Path(f'{calls}.statuses').write_text('frozen\n70\n0\n0\n')
  arguments = ('--processes=2', '--config=c.py', f'--workdir={tmp_path}')
  done = launch('multi_gpu.sh', *arguments, PATIENCE='1')
  assert starts(calls) == 4
  assert re.search(r'status (70|137); restarting from step 0\.', done.stderr)


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


def test_a_signal_during_the_preflight_is_kept(calls, tmp_path):
  """JAX catches SIGTERM once the processes are connected, so the preflight itself is not ended by it."""
  Path(f'{calls}.asked').write_text('')
  launch('multi_gpu.sh', '--config=c.py', f'--workdir={tmp_path}', status=75)
  assert len(lines(calls)) == 1 and starts(calls) == 0


def test_a_job_is_submitted_with_a_task_per_gpu_and_a_signal_before_its_end(calls, tmp_path):
  workdir = tmp_path / 'runs' / 't2v'
  launch('slurm.sh', '--nodes=2', '--gpus=4', '--partition=big', '--config=c.py', f'--workdir={workdir}')
  (call,) = lines(calls)
  for option in (
    'nodes=2',
    'ntasks-per-node=4',
    'gpus-per-node=4',
    'partition=big',
    'requeue',
    'signal=TERM@120',
    'job-name=t2v',
    'cpus-per-task=8',
  ):
    assert f' [--{option}]' in call
  assert call.endswith(f'slurm.sh] [--inside] [{LAUNCH}] [--config=c.py] [--workdir={workdir}] gpus=')
  assert workdir.is_dir(), 'sbatch does not create the folder of its log'


def test_options_of_sbatch_come_after_the_defaults_and_override_them(calls, tmp_path):
  options = ('--cpus-per-task=12', '--exclusive', '--comment=two words')
  launch('slurm.sh', *(f'--sbatch={o}' for o in options), '--config=c.py', f'--workdir={tmp_path}')
  (call,) = lines(calls)
  asked, given = call.split(f' [{LAUNCH}/slurm.sh] ')
  assert asked.endswith(' [--cpus-per-task=8] ' + ' '.join(f'[{o}]' for o in options))
  assert given == f'[--inside] [{LAUNCH}] [--config=c.py] [--workdir={tmp_path}] gpus='


@pytest.mark.parametrize('option', ['--cpus-per-task=12', '--mem=0', '--qos=high', '--exclusive', '--mail-type=END'])
def test_an_option_of_sbatch_is_rejected_before_the_queue(calls, tmp_path, option):
  done = launch('slurm.sh', '--config=c.py', f'--workdir={tmp_path}', option, status=2)
  name = option.split('=')[0]
  assert re.match(naming(f'error: {name}', f'--sbatch={option}'), done.stderr) and not lines(calls)


def test_a_job_works_from_the_copy_of_the_script_that_slurm_makes(calls, tmp_path):
  copy = tmp_path / 'slurm_script'
  shutil.copy(LAUNCH / 'slurm.sh', copy)
  arguments = ('--inside', LAUNCH, '--config=c.py', f'--workdir={tmp_path}')
  launch(copy, *arguments, SLURM_JOB_ID='17', SLURM_CPUS_PER_TASK='12')
  assert len(lines(calls)) == 2 and all(line.startswith('srun [--cpus-per-task=12] ') for line in lines(calls))


@pytest.mark.parametrize(
  ('ended', 'status', 'requeued'), [('0', 0, False), ('75', 0, True), ('1', 1, False), ('2', 2, False)]
)
def test_a_job_that_stopped_is_requeued(calls, tmp_path, ended, status, requeued):
  Path(f'{calls}.statuses').write_text(ended)
  launch('slurm.sh', '--inside', LAUNCH, '--config=c.py', f'--workdir={tmp_path}', status=status, SLURM_JOB_ID='17')
  first, second, *rest = lines(calls)
  assert first.startswith('srun ') and '[--mode=preflight]' in first
  assert second.startswith('srun ') and '[--mode=preflight]' not in second
  assert rest == (['scontrol [requeue] [17] gpus='] if requeued else [])


@pytest.mark.parametrize(
  ('ended', 'saved', 'requeued'), [('70', '300', True), ('134', '300', True), ('70', '100', False), ('2', '300', False)]
)
def test_a_job_that_crashed_is_requeued_if_it_got_further(calls, tmp_path, ended, saved, requeued):
  (tmp_path / 'checkpoints' / '200').mkdir(parents=True)
  Path(f'{calls}.statuses').write_text(ended)
  Path(f'{calls}.saves').write_text(str(tmp_path / 'checkpoints' / saved))
  status = 0 if requeued else int(ended)
  arguments = ('--inside', LAUNCH, '--config=c.py', f'--workdir={tmp_path}')
  done = launch('slurm.sh', *arguments, status=status, SLURM_JOB_ID='17')
  assert lines(calls)[2:] == (['scontrol [requeue] [17] gpus='] if requeued else [])
  assert (f'with status {ended} at step 300: job 17 is requeued' in done.stderr) == requeued


def test_a_job_whose_nodes_do_not_agree_does_not_train(calls, tmp_path):
  Path(f'{calls}.unfit').write_text('')
  launch('slurm.sh', '--inside', LAUNCH, '--config=c.py', f'--workdir={tmp_path}', status=2, SLURM_JOB_ID='17')
  assert len(lines(calls)) == 1


def test_a_requeued_job_checks_its_nodes_again(calls, tmp_path):
  arguments = ('--inside', LAUNCH, '--config=c.py', f'--workdir={tmp_path}')
  launch('slurm.sh', *arguments, SLURM_JOB_ID='17', SLURM_RESTART_COUNT='1')
  assert ['--mode=preflight' in line for line in lines(calls)] == [True, False]


@pytest.fixture
def workers(calls):
  """The homes of two workers of a slice with the library installed; their processes are killed at the end."""
  homes = [Path(f'{calls}.worker{i}') for i in range(2)]
  for home in homes:
    (home / 'vdm_jax' / '.venv' / 'bin').mkdir(parents=True)
    (home / 'vdm_jax' / 'launch').symlink_to(LAUNCH)
    python = home / 'vdm_jax' / '.venv' / 'bin' / 'python'
    python.write_text('#!/bin/sh\nexec python3 "$@"\n')
    python.chmod(0o755)
  yield homes
  for path in (home / 'vdm_jax_run' / 'pid' for home in homes):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      os.killpg(int(path.read_text()), signal.SIGKILL)


def test_a_slice_is_created_with_this_commit_on_every_worker(calls):
  launch('tpu_pod.sh', 'create', *SLICE, '--type=v4-256', '--spot', '--project=p')
  made, *installed = calls.read_text().split('\ngcloud ')
  assert made.startswith('gcloud [compute] [tpus] [tpu-vm] [create] [vdm] [--project=p] [--zone=us-central2-b]')
  assert '[--accelerator-type=v4-256]' in made and '[--spot]' in made
  (command,) = installed
  commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
  assert '[ssh] [vdm]' in command and '[--worker=all]' in command
  assert f'git checkout --quiet {commit}\n' in command
  assert "git fetch --quiet 'https://example.org/vdm_jax.git' " in command


@pytest.fixture
def bare(calls, tmp_path):
  """The home of a worker with a fresh image; git is a stand-in there."""
  git = tmp_path / 'bin' / 'git'
  git.write_text(STAND_IN.replace('name=', f'[[ $1 != re[mv]* ]] || exec {shutil.which("git")} "$@"\nname=', 1))
  git.chmod(0o755)
  home = Path(f'{calls}.worker0')
  home.mkdir()
  return home


def test_a_worker_gets_a_python_that_the_library_supports(calls, bare):
  setup = configparser.ConfigParser()
  setup.read(REPOSITORY / 'setup.cfg')
  create = ('tpu_pod.sh', 'create', *SLICE, '--type=v4-256')
  launch(*create)
  done = [line.split(' gpus=')[0] for line in lines(calls) if re.match('(python3|uv|git) ', line)]
  assert [line.split(']')[0] for line in done] == [
    'git [init',
    'python3 [-m',
    'uv [venv',
    'git [fetch',
    'git [checkout',
    'uv [pip',
  ]
  (version,) = re.findall(r'\[--python] \[([\d.]+)]', done[2])
  assert version in SpecifierSet(setup['options']['python_requires'])
  assert '[--python] [.venv/bin/python] [-e] [.[tpu]]' in done[5]
  before = lines(calls)
  launch(*create)  # as gcloud does after a lost connection
  assert not any(re.match('(python3|uv|git) ', line) for line in lines(calls)[len(before) :])


def test_without_that_python_the_installation_stops_and_the_bill_is_mentioned(calls, bare):
  Path(f'{calls}.lacking').write_text('')
  done = launch('tpu_pod.sh', 'create', *SLICE, '--type=v4-256', status=2)
  assert lines(calls)[-1].startswith('uv [venv] ')
  assert re.match(naming('error: slice vdm', 'billed', 'resume', 'delete'), done.stderr)


RUN = ('tpu_pod.sh', 'run', *SLICE, '--config=c.py', '--workdir=/mnt/a run')


def test_all_workers_of_a_slice_check_and_then_train(calls, workers):
  done = launch(*RUN)
  assert done.stderr == 'the run has ended.\n'
  work = [line for line in lines(calls) if line.startswith('python3')]
  rest = '[--coordinator=auto] [--config=c.py] [--workdir=/mnt/a run] gpus='
  expected = [f'python3 [-m] [vdm_jax.main] {mode}{rest}' for mode in ('[--mode=preflight] ', '')]
  assert sorted(work) == sorted(2 * expected)
  assert [(home / 'vdm_jax_run' / 'status').read_text() for home in workers] == ['0\n', '0\n']
  launch('tpu_pod.sh', 'stop', *SLICE)  # nothing to stop: prints how it ended
  assert starts(calls) == 2


def test_all_workers_restart_after_a_crash(calls, workers):
  for home in workers:
    Path(f'{home}.statuses').write_text('70\n2\n')
  done = launch(*RUN, status=2)
  assert starts(calls) == 4
  assert done.stdout.count('the run ended with status 70; restarting from step 0.') == 2
  assert 'error: the run ended with status 2: ' in done.stderr.splitlines()[-1]


def test_a_run_survives_the_connection_is_found_again_and_stops_on_request(calls, workers):
  Path(f'{calls}.statuses').write_text('hang\nhang\n')
  with subprocess.Popen([LAUNCH / RUN[0], *RUN[1:]], stdout=subprocess.PIPE, start_new_session=True) as view:
    wait_for(lambda: lines(calls).count('waiting') == 2)
    os.killpg(view.pid, signal.SIGKILL)  # the laptop, gcloud, and what they started on the workers
  other = launch(*RUN[:-1], '--workdir=/mnt/other', status=2)
  assert other.stderr.count(f"is busy with another run, '--config=c.py' '{RUN[-1]}': stop that first.") == 2
  with subprocess.Popen([LAUNCH / RUN[0], *RUN[1:]], stdout=subprocess.PIPE, text=True) as again:
    assert [again.stdout.readline().split(' ', 1)[1] for _ in workers] == 2 * ['is already busy with this run.\n']
    stopped = launch('tpu_pod.sh', 'stop', *SLICE, status=75)
    assert again.wait(30) == 75
  assert 'status 75' in stopped.stderr
  assert starts(calls) == 2 and lines(calls).count('stopped') == 2


def wait_for(condition, seconds=20.0):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.mark.parametrize(
  ('state', 'actions'),
  [
    ('READY', []),
    ('PREEMPTED', ['delete', 'create']),
    ('TERMINATED', ['delete', 'create']),
    ('STOPPED', ['delete', 'create']),
    (None, ['create']),
  ],
)
def test_resuming_recreates_a_slice_that_is_gone(calls, state, actions):
  Path(f'{calls}.state').write_text('vdm2\tSTOPPED\n' + (f'vdm\t{state}\n' if state else ''))
  launch('tpu_pod.sh', 'resume', *SLICE, '--type=v4-256', '--config=configs/digits.py', '--workdir=/mnt/run')
  done = re.findall(r'\[tpu-vm\] \[(\w+)\]', calls.read_text())
  assert done == ['list', *actions, 'ssh', 'ssh', 'ssh']  # to install, to start, to follow
  assert '/tpu_worker.sh follow]' in lines(calls)[-1]


@pytest.mark.parametrize('state', ['CREATING', 'STARTING', 'REPAIRING', 'DELETING'])
def test_resuming_keeps_a_slice_that_may_become_ready(calls, state):
  Path(f'{calls}.state').write_text(f'vdm\t{state}\n')
  arguments = ('--type=v4-256', '--config=configs/digits.py', '--workdir=/mnt/run')
  done = launch('tpu_pod.sh', 'resume', *SLICE, *arguments, status=2)
  assert done.stderr.startswith(f'error: slice vdm is {state}: ')
  assert len(lines(calls)) == 1


@pytest.mark.parametrize(
  ('script', 'arguments', 'named'),
  [
    ('multi_gpu.sh', ['--config=c.py'], '--workdir=DIR'),
    ('multi_gpu.sh', ['--workdir=d'], '--config=FILE'),
    ('multi_gpu.sh', ['--processes=two'], '--processes=two'),
    ('slurm.sh', ['--gpus=all'], '--gpus=all'),
    ('slurm.sh', [], '--workdir=DIR'),
    ('tpu_pod.sh', ['run', '--zone=z'], '--name=NAME'),
    ('tpu_pod.sh', ['create', *SLICE], '--type=TYPE'),
    ('tpu_pod.sh', ['resume', *SLICE], '--type=TYPE'),
    ('tpu_pod.sh', ['resume', *SLICE, '--type=v4-8'], '--workdir=DIR'),
    ('tpu_pod.sh', ['delete', *SLICE, '--sport'], '--sport'),
    ('tpu_pod.sh', ['start', *SLICE], 'start'),
    ('tpu_pod.sh', ['run', *SLICE], '--workdir=DIR'),
  ],
)
def test_missing_and_invalid_arguments_are_named(calls, script, arguments, named):
  assert launch(script, *arguments, status=2).stderr.startswith(f'error: {named} is ')
  assert lines(calls) == []


def test_shellcheck_finds_nothing():
  beside = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
  shellcheck = shutil.which('shellcheck', path=beside)
  assert shellcheck, "shellcheck is not installed: pip install -e '.[dev]'"
  scripts = [*sorted(LAUNCH.glob('*.sh')), REPOSITORY / '.ci' / 'run']
  done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
