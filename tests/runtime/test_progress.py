"""What a command shows while it is silent."""

from __future__ import annotations

import io
import sys
import time

import pytest

from vdm_jax.runtime import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.delenv(progress.SWITCH)
  monkeypatch.setattr(progress, 'SILENT_SECONDS', 0.1)
  monkeypatch.setattr(progress, 'REDRAW_SECONDS', 0.02)


def test_it_can_be_turned_off(quick, monkeypatch):
  monkeypatch.setenv(progress.SWITCH, '0')
  monkeypatch.setattr(sys, 'stderr', error := io.StringIO())
  with progress.show('starting'):
    time.sleep(0.3)
  assert error.getvalue() == ''


def until(condition):
  deadline = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_silent_command_says_what_it_does_again_and_again(quick, monkeypatch):
  monkeypatch.setattr(sys, 'stderr', error := io.StringIO())
  with progress.show('starting'):
    until(lambda: error.getvalue().count('starting: 0 s\n') >= 2)
    with progress.phase('compiling', usual=75.0):
      until(lambda: 'compiling: 0 s (1:15 the last time)\n' in error.getvalue())
      progress.note('step 2')
      until(lambda: 'step 2: 0 s\n' in error.getvalue())
    before = error.getvalue().count('starting')
    until(lambda: error.getvalue().count('starting') > before)
  assert sys.stderr is error
  shown = error.getvalue()
  time.sleep(0.3)
  assert error.getvalue() == shown, 'nothing is shown after the command'


def test_a_command_that_writes_is_not_disturbed(quick, monkeypatch):
  monkeypatch.setattr(sys, 'stderr', error := io.StringIO())
  monkeypatch.setattr(sys, 'stdout', io.StringIO())
  monkeypatch.setattr(progress, 'SILENT_SECONDS', 5.0)
  with progress.show('starting'):
    for _ in range(5):
      print('a result')
      time.sleep(0.02)
  assert error.getvalue() == ''


def test_the_line_of_a_terminal_is_removed_before_others_are_written(quick, monkeypatch):
  monkeypatch.setattr(sys, 'stderr', error := Terminal())
  with progress.show('starting'):
    until(lambda: error.getvalue().endswith('\r\x1b[Kstarting: 0 s'))
    print('a warning', file=sys.stderr)
    assert '0 s\r\x1b[Ka warning\n' in error.getvalue()
  assert error.getvalue().endswith(('\r\x1b[K', 'a warning\n'))


def test_without_a_command_nothing_is_shown(quick, monkeypatch):
  monkeypatch.setattr(sys, 'stderr', error := io.StringIO())
  with progress.phase('compiling'):
    time.sleep(0.3)
  assert error.getvalue() == ''
