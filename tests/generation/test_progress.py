"""Work in a folder: begun once, counted, and never mixed with other work."""

from __future__ import annotations

import json
import re

import pytest

from vdm_jax.errors import InvalidInput
from vdm_jax.generation.progress import Progress

RECORD = {'seed': 3, 'plan': ((0, 1), (True, False)), 'size': None}


def begun(folder, record=RECORD):
  progress = Progress(folder, record)
  progress.begin()
  return progress


def refused(message):
  return pytest.raises(InvalidInput, match=f'^{re.escape(message)}$')


def test_it_goes_on_where_it_was(tmp_path):
  progress = begun(tmp_path)
  assert progress.done == 0
  for done in (1, 2, 7):
    progress.save(done)
    assert progress.done == done == begun(tmp_path).done
  assert {file.name for file in tmp_path.iterdir()} == {'job.json', 'progress.json'}
  assert json.loads((tmp_path / 'job.json').read_text()) == json.loads(json.dumps(RECORD))


def test_nothing_is_written_before_it_begins(tmp_path):
  assert Progress(tmp_path / 'absent', RECORD).done == 0
  Progress(tmp_path, RECORD)
  assert not list(tmp_path.iterdir())


def test_beginning_again_leaves_the_record_alone(tmp_path):
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
def test_other_work_is_refused_by_what_differs(tmp_path, change, differs):
  message = (
    f'--out={tmp_path} holds videos of another command, which differs in {differs}: choose another folder, or empty '
    'this one.'
  )
  begun(tmp_path).save(2)
  with refused(message):
    Progress(tmp_path, RECORD | change)
  assert begun(tmp_path).done == 2


def test_what_only_the_folder_knows_differs_as_well(tmp_path):
  begun(tmp_path, RECORD | {'more': 1})
  with pytest.raises(InvalidInput, match='which differs in more:'):
    Progress(tmp_path, RECORD)


def test_a_key_of_a_later_version_may_be_absent_where_it_has_no_value(tmp_path):
  begun(tmp_path)
  assert Progress(tmp_path, RECORD | {'new': None}).done == 0


@pytest.mark.parametrize('name', ['job.json', 'progress.json'])
@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('[1, 2]', 'is no record of a command'),
    ('{"seed"', "cannot be read (Expecting ':' delimiter: line 1 column 8 (char 7))"),
    ('', 'cannot be read (Expecting value: line 1 column 1 (char 0))'),
  ],
)
def test_files_of_something_else_are_named(tmp_path, name, text, reason):
  begun(tmp_path).save(1)
  (tmp_path / name).write_text(text)
  with refused(f'{tmp_path}/{name} {reason}: choose another --out, or empty this one.'):
    Progress(tmp_path, RECORD)
  assert (tmp_path / name).read_text() == text
