"""Atomic files: readers see the old content or the new one, however writing ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vdm_jax.runtime.atomic_files import atomic_write, sweep, write_text

ROOT = Path(__file__).resolve().parents[2]


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
  path = tmp_path / 'new' / 'note.txt'
  write_text(path, 'old é')
  with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
    temporary.write_text('half')
    raise KeyboardInterrupt
  assert path.read_bytes() == 'old é'.encode()
  assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_interfere(tmp_path):
  path = tmp_path / 'note.txt'
  with atomic_write(path) as first, atomic_write(path) as second:
    first.write_text('first')
    second.write_text('second')
    assert not path.exists()
  assert path.read_text() == 'first'  # whose block ended last
  assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from vdm_jax.runtime.atomic_files import write_text

while True:
  for letter in 'ab':
    write_text(sys.argv[1], letter * 100_000)
"""


def test_readers_never_see_a_part_although_writers_are_killed(tmp_path):
  path = tmp_path / 'note.txt'
  for _ in range(3):
    with subprocess.Popen([sys.executable, '-c', WRITER, path], env=dict(os.environ, PYTHONPATH=str(ROOT))) as writer:
      while not path.exists():
        assert writer.poll() is None
      seen = {path.read_text() for _ in range(50)}
      writer.kill()
    assert seen | {path.read_text()} <= {'a' * 100_000, 'b' * 100_000}
  sweep(tmp_path)
  assert list(tmp_path.iterdir()) == [path], 'nothing is left of killed writers'


def test_only_leftovers_of_writers_are_swept(tmp_path):
  names = ['.note.txt.tmp', 'note.txt.0123abcd.tmp', '.note.0123abcd.tmp~', '.note.0123abcg.tmp', 'note.txt', '.hidden']
  for name in [*names, '.note.txt.0123abcd.tmp', '.a.1234567f.tmp']:
    (tmp_path / name).touch()
  sweep(tmp_path)
  assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
  sweep(tmp_path / 'absent')
