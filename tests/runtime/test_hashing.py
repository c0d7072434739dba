"""Hashes of files, folders and code change with every part of what they stand for."""

from __future__ import annotations

import os

import pytest

from vdm_jax.runtime import hashing
from vdm_jax.runtime.hashing import BLOCK_BYTES, BLOCKS, code_hash, quick_hash

SIZE = 40 * BLOCK_BYTES


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'clips/sub').mkdir(parents=True)
  for name, size in (('a', 10), ('b', BLOCKS * BLOCK_BYTES), ('sub/c', SIZE)):
    (tmp_path / 'clips' / name).write_bytes(bytes(size))
    os.utime(tmp_path / 'clips' / name, ns=(10**18, 10**18))
  return tmp_path / 'clips'


def edit(path, place):
  """Change one byte, and neither size nor time."""
  with open(path, 'r+b') as file:
    file.seek(place)
    file.write(b'1')
  os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize(
  ('name', 'place'),
  [
    ('a', 5),
    *(('b', place) for place in (0, 3 * BLOCK_BYTES, BLOCKS * BLOCK_BYTES - 1)),
    ('sub/c', 0),
    ('sub/c', SIZE - 1),
  ],
)
def test_an_edited_byte_of_the_blocks_changes_the_hash(folder, name, place):
  before = quick_hash(folder), quick_hash(folder / name), quick_hash(folder, blocks=0)
  edit(folder / name, place)
  assert quick_hash(folder) != before[0] and quick_hash(folder / name) != before[1]
  assert quick_hash(folder, blocks=0) == before[2], 'only sizes and times are read'


def test_times_names_and_sizes_change_the_hash_but_not_the_place(folder, tmp_path):
  found = {quick_hash(folder)}
  assert quick_hash(folder.rename(tmp_path / 'moved')) in found
  folder = tmp_path / 'moved'
  timeless = quick_hash(folder, times=False)
  os.utime(folder / 'sub/c', ns=(10**18, 10**18 + 1))
  found.add(quick_hash(folder))
  assert quick_hash(folder, times=False) == timeless
  (folder / 'a').rename(folder / 'd')
  found.add(quick_hash(folder))
  with open(folder / 'd', 'ab') as file:
    file.write(b'0')
  found.add(quick_hash(folder))
  assert len(found) == 4


def test_code_is_that_of_the_named_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(hashing, 'PACKAGE', tmp_path)
  (tmp_path / 'sampling/__pycache__').mkdir(parents=True)
  for name in ('sampling/steps.py', 'sampling/table.npz', 'models.py', 'main.py'):
    (tmp_path / name).write_text('1')
  found = []
  for changed in ('sampling/steps.py', 'sampling/table.npz', 'models.py', 'main.py', 'sampling/__pycache__/steps.pyc'):
    (tmp_path / changed).write_text('2')
    code_hash.cache_clear()
    found.append(code_hash('models', 'sampling'))
  code_hash.cache_clear()
  assert len(set(found)) == 3 and found[2] == found[3] == found[4]
