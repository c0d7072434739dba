"""Resumable work: begun once, continued, and never mixed with other work."""

from __future__ import annotations

import json
import re

import pytest

from vdm_jax.runtime.resumable import OtherWork, Work

RECORD = {'seed': 3, 'plan': ((0, 1), (True, False)), 'size': None}


def begun(folder, record=RECORD):
  work = Work(folder, record, setting='--out')
  work.begin()
  return work


def test_counted_pieces_continue_where_they_stopped(tmp_path):
  work = begun(tmp_path)
  assert work.done == 0
  for done in (1, 2, 7):
    work.save(done)
    assert work.done == done == begun(tmp_path).done
  assert {file.name for file in tmp_path.iterdir()} == {'job.json', 'progress.json'}
  assert json.loads((tmp_path / 'job.json').read_text()) == json.loads(json.dumps(RECORD))


def test_progress_without_a_record_is_that_of_nobody_knows_what(tmp_path):
  begun(tmp_path).save(7)
  (tmp_path / 'job.json').unlink()
  assert Work(tmp_path, RECORD | {'seed': 4}).done == 0


def test_pieces_that_are_files_are_complete_or_missing(tmp_path):
  work = begun(tmp_path)
  with work.writing('0.npz') as file:
    file.write_text('done')
  with pytest.raises(KeyboardInterrupt), work.writing('1.npz') as file:
    file.write_text('half')
    raise KeyboardInterrupt
  assert begun(tmp_path).missing(['0.npz', '1.npz', '2.npz']) == ['1.npz', '2.npz']
  assert {file.name for file in tmp_path.iterdir()} == {'job.json', '0.npz'}


def test_nothing_is_written_before_it_begins(tmp_path):
  assert Work(tmp_path / 'absent', RECORD).done == 0
  assert not Work(tmp_path, RECORD).begun
  assert not list(tmp_path.iterdir())


def test_beginning_again_leaves_the_record_unchanged(tmp_path):
  begun(tmp_path)
  before = (tmp_path / 'job.json').stat()
  begun(tmp_path)
  assert (tmp_path / 'job.json').stat() == before


@pytest.mark.parametrize(
  ('change', 'differs'),
  [
    ({'seed': 4}, 'seed'),
    ({'plan': ((0, 1), (True, True))}, 'plan'),
    ({'size': [2, 3], 'seed': 0}, 'seed, size'),
    ({'more': 1}, 'more'),
  ],
)
def test_other_work_is_rejected_with_the_keys_that_differ(tmp_path, change, differs):
  begun(tmp_path).save(2)
  with pytest.raises(OtherWork, match=f'^--out={re.escape(str(tmp_path))} .* differs in {differs}:'):
    begun(tmp_path, RECORD | change)
  assert begun(tmp_path).done == 2


def test_a_key_that_only_the_folder_has_differs_too(tmp_path):
  begun(tmp_path, RECORD | {'more': 1})
  with pytest.raises(OtherWork, match='differs in more:'):
    Work(tmp_path, RECORD)


def test_a_new_key_without_a_value_is_compatible_with_older_records(tmp_path):
  begun(tmp_path)
  assert Work(tmp_path, RECORD | {'new': None}).done == 0


@pytest.mark.parametrize('name', ['job.json', 'progress.json'])
@pytest.mark.parametrize('text', ['[1, 2]', '{"seed"', ''])
def test_files_that_are_not_records_are_named(tmp_path, name, text):
  begun(tmp_path).save(1)
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=f'^--out={re.escape(str(tmp_path))}: {re.escape(str(tmp_path / name))} '):
    begun(tmp_path)
  assert (tmp_path / name).read_text() == text
