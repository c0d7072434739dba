"""Saving and restoring: exact, complete or not at all, and never silently from scratch."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.process_group import ProcessGroup, group_commands, virtual
from jax.sharding import SingleDeviceSharding

from vdm_jax import checkpoints
from vdm_jax.checkpoints import Checkpointer, integrity
from vdm_jax.checkpoints.manager import is_storage_error
from vdm_jax.names import RENAMED_STATE


class State(NamedTuple):
  step: Any
  params: Any
  moments: Any
  ema: Any


def make_state(step: int, width: int = 4) -> State:
  rng = np.random.default_rng(step)

  def tree():
    return {
      'a': {'kernel': jnp.float32(rng.standard_normal((3, width)))},
      'b': jnp.float32(rng.random(2)),
    }

  return State(jnp.int32(step), tree(), (None, {'count': jnp.int32(step), 'mu': tree()}), tree())


def abstract(state: State) -> State:
  return jax.tree.map(as_abstract, state)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def save(workdir, *steps, keep=3):
  with Checkpointer(workdir, keep) as checkpointer:
    for step in steps:
      checkpointer.save(step, make_state(step))
    checkpointer.wait()


def restore(workdir, like=None):
  with Checkpointer(workdir, 3) as checkpointer:
    return checkpointer.restore(abstract(make_state(0) if like is None else like))


def files_of(folder: Path) -> list[Path]:
  return sorted(f for f in folder.rglob('*') if f.is_file())


def flip(file: Path, position: float = 0.5, bit: int = 0) -> None:
  content = bytearray(file.read_bytes())
  content[int(position * (len(content) - 1))] ^= 1 << bit
  file.write_bytes(content)


def test_what_is_saved_comes_back_bit_for_bit_with_its_structure(tmp_path):
  save(tmp_path, 1, 2)
  found = restore(tmp_path)
  assert isinstance(found, State)
  assert_same(found, make_state(2))


def test_a_new_workdir_has_nothing_to_restore(tmp_path):
  assert restore(tmp_path) is None


def test_donating_the_state_after_save_does_not_reach_the_file(tmp_path):
  overwrite = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)
  state = make_state(5)
  with Checkpointer(tmp_path, 1) as checkpointer:
    checkpointer.save(5, state)
    jax.block_until_ready(overwrite(state))
  assert_same(restore(tmp_path), make_state(5))


def test_only_the_newest_are_kept(tmp_path):
  save(tmp_path, 1, 2, 3, 4, keep=2)
  assert checkpoints.steps(tmp_path) == [3, 4]


def test_the_ema_is_read_without_the_rest(tmp_path):
  save(tmp_path, 7)
  assert checkpoints.newest_good_step(tmp_path) == 7
  assert_same(checkpoints.restore_ema(tmp_path, 7, abstract(make_state(0)).ema), make_state(7).ema)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A workdir with the checkpoints of steps 1 and 2, to be copied."""
  workdir = tmp_path_factory.mktemp('saved')
  save(workdir, 1, 2)
  return workdir


# Orbax notes times and completion in these; they hold nothing that is restored.
WITHOUT_CONTENT = {'_CHECKPOINT_METADATA', 'commit_success.txt'}


def damages(folder: Path):
  """(name, what to do) for a flipped bit, a truncation and a deletion of each file."""
  for file in files_of(folder):
    name = str(file.relative_to(folder))
    for position in (0.0, 0.31, 1.0):
      yield f'flip {position} {name}', name, lambda f, position=position: flip(f, position, bit=3)
    yield f'truncate {name}', name, lambda f: f.write_bytes(f.read_bytes()[:-1])
    yield f'delete {name}', name, lambda f: f.unlink()


def test_every_damage_is_found_named_and_survived(saved, tmp_path):
  """Bit flips, truncations and deletions of every file of the newest checkpoint."""
  found = 0
  for i, (what, name, damage) in enumerate(damages(saved / 'checkpoints' / '2')):
    workdir = tmp_path / str(i)
    shutil.copytree(saved, workdir)
    folder = workdir / 'checkpoints' / '2'
    damage(folder / name)
    if name in WITHOUT_CONTENT:
      assert_same(restore(workdir), make_state(2))
      continue
    with pytest.warns(RuntimeWarning) as warned:
      assert_same(restore(workdir), make_state(1))
    assert str(warned[0].message).startswith(f'checkpoint {folder} is damaged: '), what
    assert name in str(warned[0].message), what
    assert checkpoints.steps(workdir) == [1]
    assert (workdir / 'damaged' / '2-0').is_dir()
    found += 1
  assert found >= 40


def test_training_goes_on_over_a_damaged_checkpoint(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / 'checkpoints' / '2' / 'default')
  with Checkpointer(tmp_path, 3) as checkpointer:
    with pytest.warns(RuntimeWarning, match='default/_METADATA is missing'):
      checkpointer.restore(abstract(make_state(0)))
    checkpointer.save(2, make_state(2))
    checkpointer.wait()
  assert_same(restore(tmp_path), make_state(2))


def test_readers_leave_a_damaged_checkpoint_where_it_is(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  flip(tmp_path / 'checkpoints' / '2' / 'default' / '_METADATA')
  with pytest.warns(RuntimeWarning):
    step = checkpoints.newest_good_step(tmp_path)
  assert step == 1
  assert_same(checkpoints.restore_ema(tmp_path, step, abstract(make_state(0)).ema), make_state(1).ema)
  assert checkpoints.steps(tmp_path) == [1, 2]


def test_with_no_good_checkpoint_nothing_starts_from_scratch(tmp_path):
  save(tmp_path, 1, 2)
  for step in (1, 2):
    flip(tmp_path / 'checkpoints' / str(step) / 'default' / '_METADATA')
  with pytest.warns(RuntimeWarning), pytest.raises(ValueError) as error:
    restore(tmp_path)
  for part in (f'{tmp_path}/checkpoints', 'step 2: default/_METADATA', 'step 1: default/_METADATA'):
    assert part in str(error.value)
  assert checkpoints.steps(tmp_path) == [1, 2]


@pytest.mark.parametrize('name', ['7', 'LAST', 'model.bin'])
def test_an_empty_or_foreign_folder_is_not_a_new_run(tmp_path, name):
  (tmp_path / 'checkpoints' / name).mkdir(parents=True)
  with pytest.raises(ValueError) as error:
    if name == '7':
      with pytest.warns(RuntimeWarning, match='manifest.json is missing'):
        restore(tmp_path)
    else:
      restore(tmp_path)
  assert f'{tmp_path}/checkpoints' in str(error.value)
  assert ('step 7: manifest.json' if name == '7' else f"['{name}']") in str(error.value)


def test_files_of_a_killed_first_save_are_not_a_checkpoint(tmp_path):
  (tmp_path / 'checkpoints' / '3.orbax-checkpoint-tmp' / 'default').mkdir(parents=True)
  # One Checkpointer for both, as in training: Orbax removes such files in the background, and waits for it in a save.
  with Checkpointer(tmp_path, 3) as checkpointer:
    assert checkpointer.restore(abstract(make_state(0))) is None
    checkpointer.save(3, make_state(3))
    checkpointer.wait()
  assert [f.name for f in (tmp_path / 'checkpoints').iterdir()] == ['3']


def test_another_shape_is_an_error_that_lists_every_tensor(tmp_path):
  save(tmp_path, 1)
  other = make_state(0, width=5)
  other.ema['c'] = jnp.zeros(1)
  del other.params['b']
  with pytest.raises(ValueError) as error:
    restore(tmp_path, other)
  assert [f'checkpoint {tmp_path}/checkpoints/1', *str(error.value).splitlines()[1:-1]] == [
    f'checkpoint {tmp_path}/checkpoints/1',
    '  ema/a/kernel: float32[3, 4] saved, float32[3, 5] expected',
    '  ema/c: absent saved, float32[1] expected',
    '  moments/1/mu/a/kernel: float32[3, 4] saved, float32[3, 5] expected',
    '  params/a/kernel: float32[3, 4] saved, float32[3, 5] expected',
    '  params/b: float32[2] saved, absent expected',
  ]


@contextlib.contextmanager
def full_disk(spare: int = 100_000):
  """Limits the size of files that this process writes: larger ones fail below Orbax, as on a full disk."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (spare, before[1]))  # Python ignores the signal
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def large_state(step: int) -> dict:
  return {'ema': np.random.default_rng(step).standard_normal(100_000, np.float32)}  # too random to be compressed


def as_abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(jax.devices()[0]))


def saved_as(workdir):
  return sorted(file.name for file in (workdir / 'checkpoints').iterdir())


def test_a_failed_save_is_a_warning_and_the_third_in_a_row_an_error(tmp_path):
  """A full disk does not stop training at once, costs no good checkpoint, and leaves no files behind."""
  with Checkpointer(tmp_path, 1) as checkpointer:
    checkpointer.save(1, large_state(1))
    checkpointer.wait()
    with full_disk():
      for step in (2, 3):
        checkpointer.save(step, large_state(step))
        with pytest.warns(RuntimeWarning) as warned, pytest.raises(OSError, match=f'step {step} could not be written'):
          checkpointer.wait()
        said = str(warned[0].message)
        assert all(part in said for part in (f'step {step} ', f'{tmp_path}/checkpoints', 'File too large'))
        assert saved_as(tmp_path) == ['1']
      checkpointer.save(4, large_state(4))
      with pytest.raises(OSError, match='step 4 .* 3 consecutive saves'):
        checkpointer.wait()
    assert saved_as(tmp_path) == ['1']
    checkpointer.save(5, large_state(5))
    checkpointer.wait()
    assert saved_as(tmp_path) == ['5'], 'the checkpoint to delete after step 2 is not forgotten'
    with full_disk(), pytest.warns(RuntimeWarning, match='step 6 could not be written'):
      checkpointer.save(6, large_state(6))
      checkpointer.save(7, make_state(7)._asdict())  # small enough
    checkpointer.wait()
  assert_same(restore(tmp_path), make_state(7))


@pytest.mark.parametrize('seed', range(4))
def test_whatever_happens_the_newest_good_checkpoints_are_kept(tmp_path, seed):
  """Saves that succeed or fail, another number to keep, damage: the folder matches a list that models it."""
  rng = np.random.default_rng(seed)
  good, failed, step = [], 0, 0
  for _ in range(4):
    keep = int(rng.integers(1, 4))
    if good and rng.random() < 0.4:
      flip(tmp_path / 'checkpoints' / str(good[-1]) / 'default' / '_METADATA')
      good = good[:-1] if len(good) > 1 else []
      if not good:
        shutil.rmtree(tmp_path / 'checkpoints')  # as the error message suggests
    with Checkpointer(tmp_path, keep) as checkpointer, warnings.catch_warnings():
      warnings.simplefilter('ignore')
      found = checkpointer.restore(jax.tree.map(as_abstract, large_state(0)))
      assert (found is None) == (not good)
      if good:
        np.testing.assert_array_equal(found['ema'], large_state(good[-1])['ema'])
      for _ in range(4):
        step += 1
        fails = failed < 2 and rng.random() < 0.4
        with full_disk() if fails else contextlib.nullcontext():
          checkpointer.save(step, large_state(step))
          with contextlib.suppress(OSError):
            checkpointer.wait()
        failed = failed + 1 if fails else 0
        good = good if fails else [*good, step][-keep:]
        assert saved_as(tmp_path) == sorted(map(str, good))
    failed = 0


def test_failures_of_a_save_other_than_storage_are_raised(tmp_path, monkeypatch):
  with Checkpointer(tmp_path, 1) as checkpointer:
    monkeypatch.setattr(integrity, 'checksum', lambda files: files.absent)
    checkpointer.save(1, make_state(1))
    with pytest.raises(AttributeError, match='absent'):
      checkpointer.wait()


@pytest.mark.parametrize(
  ('error', 'storage'),
  [
    (OSError(errno.EIO, os.strerror(errno.EIO)), True),
    (TimeoutError('Timed out while waiting for async_write_complete barrier.'), True),
    (
      ValueError(
        'RESOURCE_EXHAUSTED: Error writing "a/0" in OCDBT database: Failed to write 5369856 bytes to file 4: '
        "No space left on device [os_error_code='28']"
      ),
      True,
    ),
    (ValueError("FAILED_PRECONDITION: Failed to open: Not a directory [os_error_code='20']"), True),
    (ValueError('Error writing "a/0": PERMISSION_DENIED: HTTP response code: 403'), True),
    (jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: GetKeyValue() timed out'), True),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 800 bytes.'), False),
    (ValueError('INVALID_ARGUMENT: Error opening "zarr" driver: dtype'), False),
    (ValueError('Checkpoint for step 3 already exists.'), False),
    (KeyError('ema'), False),
  ],
)
def test_storage_errors_are_distinguished_from_bugs(error, storage):
  assert is_storage_error(error) is storage


# Saves steps 1 to 5 of a state split over all devices; process 1 cannot write its part of 2, process 0 the end of 4.
SAVES = """
import resource, warnings
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from vdm_jax import checkpoints, partitioning
from vdm_jax.checkpoints import integrity
warnings.simplefilter('always')
checksum = integrity.checksum
def limit(size):
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def full(files):
  raise OSError(28, 'No space left on device')
read, fingerprint = [], integrity.fingerprint
integrity.fingerprint = lambda file: read.append(str(file)) or fingerprint(file)
with runtime.join_process_group(rendezvous):
  mesh = partitioning.make_mesh({'data': 1, 'fsdp': -1})
  sharding = NamedSharding(mesh, P('fsdp'))
  def make(step):
    values = np.random.default_rng(step).standard_normal(400_000).astype(np.float32)
    return {'ema': jax.make_array_from_callback(values.shape, sharding, lambda i: values[i])}
  with checkpoints.Checkpointer(arguments[0], 2) as checkpointer:
    for step in range(1, 6):
      runtime.exchange('step', step)
      limit(100_000 if (step, index) == (2, 1) else resource.RLIM_INFINITY)
      integrity.checksum = full if (step, index) == (4, 0) else checksum
      read.clear()
      checkpointer.save(step, make(step))
      try:
        checkpointer.wait()
      except OSError as error:
        print('failed', step, error, flush=True)
      else:
        own = [name for name in read if f'ocdbt.process_{index}' in name]
        assert own and not any(f'ocdbt.process_{1 - index}' in name for name in read), read
    read.clear()
    like = jax.ShapeDtypeStruct((400_000,), np.float32, sharding=sharding)
    found = checkpointer.restore({'ema': like})['ema']
    for a, b in zip(found.addressable_shards, make(5)['ema'].addressable_shards, strict=True):
      np.testing.assert_array_equal(a.data, b.data)
    shares = runtime.exchange('shares', sorted(read))
    assert not set(shares[0]) & set(shares[1]) and abs(len(shares[0]) - len(shares[1])) <= 1, shares
    total = [str(f) for f in (checkpointer.directory / '5').rglob('*') if f.is_file()]
    skipped = {'manifest.json', '_CHECKPOINT_METADATA', 'commit_success.txt'}
    wanted = {name for name in total if name.rpartition('/')[2] not in skipped}
    assert wanted <= set(shares[0] + shares[1]), wanted
  sys.exit(0)
"""


def test_a_save_that_fails_on_one_process_fails_on_all_at_once(tmp_path):
  """Also: each process reads its own files after writing, and a share of all files before restoring."""
  started = time.monotonic()
  with ProcessGroup(tmp_path / 'logs', group_commands(SAVES, tmp_path / 'run'), devices=1) as group:
    assert group.wait(100) == [0, 0], group.texts()
  assert time.monotonic() - started < 100
  for index, text in enumerate(group.texts()):
    assert re.findall(r'^failed (\d)', text, re.MULTILINE) == ['2', '4'], text
    said = dict(re.findall(r'RuntimeWarning: the checkpoint of step (\d) could not be written to \S+: (.*)', text))
    for step, at, why in (('2', 1, 'File too large'), ('4', 0, 'No space left')):
      reason = why if index == at else f'process {at} could not write its part'
      assert reason in said[step], text
  assert saved_as(tmp_path / 'run') == ['3', '5']


def test_at_least_one_checkpoint_is_kept():
  with pytest.raises(ValueError, match='training.keep_checkpoints=0'):
    Checkpointer('anywhere', 0)


MESHES = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from vdm_jax.checkpoints import Checkpointer
from vdm_jax.partitioning import make_mesh
workdir, write = sys.argv[1], sys.argv[2] == 'write'
meshes = [({'data': 4}, 4), ({'fsdp': 4}, 4), ({'data': 2, 'fsdp': 2}, 4), ({'fsdp': 2, 'tensor': 2}, 4)]
meshes.append(({'data': 1}, 1))
spec = {'kernel': P('fsdp', 'tensor'), 'bias': P()}
values = {'kernel': np.arange(32, dtype=np.float32).reshape(8, 4) / 7, 'bias': np.float32(3)}
for i, (sizes, count) in enumerate(meshes):
  mesh = make_mesh(sizes, jax.devices()[:count])
  shardings = {name: NamedSharding(mesh, spec[name]) for name in spec}
  if write:
    with Checkpointer(f'{workdir}/{i}', 1) as checkpointer:
      checkpointer.save(1, {'ema': jax.device_put(values, shardings)})
  for j in range(len(meshes) if not write else 0):
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), values, shardings)
    with Checkpointer(f'{workdir}/{j}', 1) as checkpointer:
      found = checkpointer.restore({'ema': like})['ema']
    for name in spec:
      assert found[name].sharding == shardings[name]
      np.testing.assert_array_equal(np.asarray(found[name]), values[name])
    print(i, j)
"""


def test_what_one_mesh_saved_every_other_restores_exactly(tmp_path):
  for mode in ('write', 'read'):
    command = [sys.executable, '-c', MESHES, str(tmp_path), mode]
    run = subprocess.run(command, env=virtual(4), capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stdout + run.stderr
  assert run.stdout.split('\n')[:-1] == [f'{i} {j}' for i in range(5) for j in range(5)]


class OldState(NamedTuple):
  """A state as earlier versions saved it, under former names."""

  step: Any
  usual_gradient_norm: Any
  ema: Any


class NewState(NamedTuple):
  step: Any
  grad_norm_ema: Any
  ema: Any
  sums: Any


def test_former_names_of_the_state_are_restored(tmp_path):
  """`names.RENAMED_STATE`, together with a leaf that is too new to be in the checkpoint."""
  assert RENAMED_STATE['grad_norm_ema'] == 'usual_gradient_norm'
  values = {'step': jnp.int32(4), 'ema': {'kernel': jnp.float32([1.5, -2.0])}}
  with Checkpointer(tmp_path, 1) as checkpointer:
    checkpointer.save(4, OldState(usual_gradient_norm=jnp.float32(0.7), **values))
    checkpointer.wait()
    new = NewState(grad_norm_ema=jnp.float32(0.7), sums={'spikes': jnp.float32(0)}, **values)
    assert_same(checkpointer.restore(abstract(new), {'sums/spikes', 'grad_norm_ema'}), new)
    other = new._replace(grad_norm_ema=jnp.zeros(2))
    with pytest.raises(ValueError, match='usual_gradient_norm: float32\\[\\] saved, float32\\[2\\] expected'):
      checkpointer.restore(abstract(other), {'sums/spikes'})
    checkpointer.save(5, new)
    checkpointer.wait()
    assert_same(checkpointer.restore(abstract(new)), new)
