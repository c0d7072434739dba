"""SIGKILL at random times, and directly before and after each rename: nothing is lost, repeated or incomplete.

A process that has imported everything but not initialized JAX forks one for each trial, which saves start-up time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

FORK = """
import hashlib, json, os, random, shutil, signal, sys, time, warnings
from pathlib import Path
import jax, numpy as np
import orbax.checkpoint  # imported once for all trials
from helpers import standin
from vdm_jax import checkpoints, partitioning
from vdm_jax.training import train

warnings.simplefilter('ignore')
folder = Path(sys.argv[1])

def run(workdir, steps, batches=standin.batches):
  config = standin.make_config(
    num_steps=steps, schedule='constant', checkpoint_every=1, log_every=3, self_condition_rate=0.5, heldout_every=5
  )
  mesh = partitioning.make_mesh({'data': -1})
  return train(
    standin.make_model(config), config, workdir, mesh=mesh, batches=batches, heldout=[standin.make_batch(1000)]
  )

def digest(workdir, steps):
  state = run(workdir, steps)
  leaves = b''.join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  rows = [{k: v for k, v in row.items() if not k.startswith(('time/', 'memory/'))} for row in rows]
  left = sorted(file.name for file in (workdir / 'checkpoints').iterdir())
  left += sorted(file.name for file in workdir.rglob('*') if file.name.endswith(('.tmp', 'left_out.json')))
  return [hashlib.sha256(leaves).hexdigest(), rows, left]

def start(job):
  pid = os.fork()
  if pid == 0:
    status = 1
    try:
      output = os.open(folder / 'log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
      os.dup2(output, 2)
      job()
      status = 0
    except BaseException:
      import traceback
      traceback.print_exc()
    finally:
      os._exit(status)
  return pid

def finish(job):
  '''Return the result of a job in its own process.'''
  path = folder / 'result.json'
  path.unlink(missing_ok=True)
  _, status = os.waitpid(start(lambda: path.write_text(json.dumps(job()))), 0)
  assert status == 0, (folder / 'log').read_text()[-3000:]
  return json.loads(path.read_text())
"""

RANDOM = """
rng = random.Random(0)
def slow(start):
  for batch in standin.batches(start):
    time.sleep(0.005)
    yield batch
begin = time.time()
finish(lambda: run(folder / 'timed', 20, slow) and None)
longest = min(1.5 * (time.time() - begin), 10.0)
reached = []
for kill in range(40):
  pid = start(lambda: run(folder / 'killed', 10**6, slow))
  time.sleep(rng.uniform(0, longest))
  os.kill(pid, signal.SIGKILL)
  assert os.waitpid(pid, 0)[1] == signal.SIGKILL, (folder / 'log').read_text()[-3000:]
  reached.append(max(checkpoints.steps(folder / 'killed'), default=0))
steps = reached[-1] + 3
same = finish(lambda: digest(folder / 'killed', steps)) == finish(lambda: digest(folder / 'whole', steps))
print(json.dumps({'reached': reached, 'same': same}))
"""

RENAMES = """
def counted(job, kill_at=None, after=False):
  '''Run a job, record its renames, and kill it before or after one of them.'''
  calls = []
  def wrap(rename):
    def renamed(source, target, **options):
      calls.append(f'{Path(source).name} -> {Path(target).name}')
      if len(calls) == kill_at and not after:
        os.kill(os.getpid(), signal.SIGKILL)
      result = rename(source, target, **options)
      if len(calls) == kill_at and after:
        os.kill(os.getpid(), signal.SIGKILL)
      return result
    return renamed
  os.replace, os.rename = wrap(os.replace), wrap(os.rename)
  job()
  return calls

# The last checkpoint of a run is damaged: it is moved aside, rows are dropped, then training resumes and saves.
finish(lambda: run(folder / 'base', 4) and None)
file = folder / 'base' / 'checkpoints' / '4' / 'default' / '_METADATA'
file.write_bytes(file.read_bytes()[:-1])
def fresh(name):
  shutil.rmtree(folder / name, ignore_errors=True)
  return Path(shutil.copytree(folder / 'base', folder / name))
workdir = fresh('dry')
renames = finish(lambda: counted(lambda: run(workdir, 6)))
expected = finish(lambda: digest(folder / 'dry', 8))
results = []
for number, rename in enumerate(renames, 1):
  for after in (False, True):
    workdir = fresh('killed')
    _, status = os.waitpid(start(lambda: counted(lambda: run(workdir, 6), number, after)), 0)
    same = finish(lambda: digest(workdir, 8)) == expected
    results.append([rename, after, status == signal.SIGKILL, same])
print(json.dumps(results))
"""


def forked(tmp_path, script):
  paths = (REPOSITORY, REPOSITORY / 'tests')
  env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)))
  done = subprocess.run(
    [sys.executable, '-c', FORK + script, tmp_path], env=env, capture_output=True, text=True, timeout=1500
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_forty_kills_at_random_instants_equal_no_kill(tmp_path):
  """While starting, restoring, training and saving."""
  result = forked(tmp_path, RANDOM)
  assert len(result['reached']) == 40
  assert result['reached'] == sorted(result['reached']), 'no step is lost that was saved'
  assert len(set(result['reached'])) > 3, 'some of the kills met a run that was training'
  assert result['same']


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_a_kill_at_any_rename_leaves_the_old_or_the_new(tmp_path):
  """Of configuration, environment, rows, a damaged checkpoint, and every new checkpoint."""
  results = forked(tmp_path, RENAMES)
  names = [rename for rename, *_ in results]
  for target in ('config.json', 'env.json', 'metrics.jsonl', '4-0', '5', '6'):
    assert any(name.endswith(f' -> {target}') for name in names), target
  assert sum('orbax-checkpoint-tmp' in name for name in names) >= 4
  for rename, after, was_killed, same in results:
    where = f'{"after" if after else "before"} {rename}'
    assert was_killed, where
    assert same, where
