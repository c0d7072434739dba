"""A file is the old one or the new one, whoever writes it and however that ends."""

from __future__ import annotations

import multiprocessing

import pytest

from vdm_jax.replacing import replacing, write_text


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'new' / 'note.txt'
  write_text(path, 'old é')
  with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
    temporary.write_text('half')
    raise KeyboardInterrupt
  assert path.read_bytes() == 'old é'.encode()
  assert list(path.parent.iterdir()) == [path]


def test_two_that_write_the_same_file_do_not_meet(tmp_path):
  path = tmp_path / 'note.txt'
  with replacing(path) as first, replacing(path) as second:
    first.write_text('first')
    second.write_text('second')
    assert not path.exists()
  assert path.read_text() == 'first'  # whose block ended last
  assert list(tmp_path.iterdir()) == [path]


def _write_for_ever(path):
  while True:
    for letter in 'ab':
      write_text(path, letter * 100_000)


def test_readers_and_kills_never_see_a_part(tmp_path):
  path = tmp_path / 'note.txt'
  for _ in range(3):
    writer = multiprocessing.get_context('fork').Process(target=_write_for_ever, args=(path,))
    writer.start()
    while not path.exists():
      pass
    seen = {path.read_text() for _ in range(50)}
    writer.kill()
    writer.join()
    assert seen | {path.read_text()} <= {'a' * 100_000, 'b' * 100_000}
