"""What a command is doing: shown on standard error whenever it would otherwise be silent for some seconds.

The environment variable VDM_JAX_PROGRESS=0 turns it off.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

SILENT_SECONDS = 4.0  # without output, after which the phase is shown, again and again
SWITCH = 'VDM_JAX_PROGRESS'
REDRAW_SECONDS = 1.0  # of the line on a terminal


def wanted() -> bool:
  """Return whether the user wants to see progress: always, unless the environment variable says no."""
  return os.environ.get(SWITCH) != '0'


class Phase:
  """A part of a command's work, and how long it has lasted."""

  def __init__(self, what: str, usual: float | None = None):
    self.begin(what, usual)

  def begin(self, what: str, usual: float | None = None) -> None:
    """Begin (again); `usual` is how many seconds it took the last time."""
    self.what, self.usual, self._start = what, usual, time.monotonic()

  def __str__(self) -> str:
    known = '' if self.usual is None else f' ({clock(self.usual)} the last time)'
    return f'{self.what}: {clock(time.monotonic() - self._start)}{known}'


def clock(seconds: float) -> str:
  """Return a duration as people read it.

  >>> clock(7.4), clock(75), clock(3675)
  ('7 s', '1:15', '1:01:15')
  """
  whole = round(seconds)
  hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
  if whole < 60:
    return f'{whole} s'
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


_phases: list[Phase] = []  # the innermost last
_display: list[_Display] = []  # of the command, if it shows any


@contextlib.contextmanager
def phase(what: str, usual: float | None = None) -> Iterator[None]:
  """Say what the work inside is. Only a command that shows its phases (`show`) prints it, and only if it lasts.

  >>> with phase('reading captions'):
  ...   pass
  """
  own = Phase(what, usual)
  _phases.append(own)
  try:
    yield
  finally:
    if own in _phases:
      _phases.remove(own)


def note(what: str, usual: float | None = None) -> None:
  """Begin the next part of the innermost phase."""
  if _phases:
    _phases[-1].begin(what, usual)


@contextlib.contextmanager
def show(what: str) -> Iterator[None]:
  """Show the phases of the work inside, a command, whenever it has written nothing for SILENT_SECONDS."""
  start(what)
  try:
    yield
  finally:
    stop()


def start(what: str) -> None:
  """Begin to show phases, or rename the command's own phase if they are shown already."""
  if not wanted():
    return
  if _display:
    _phases[0].begin(what)
    return
  _phases[:] = [Phase(what)]
  _display.append(_Display())


def stop() -> None:
  """Show no phases any more, also those of a process that is not the first of its group."""
  while _display:
    _display.pop().close()


class _Display:
  """Standard output and error while phases are shown: who wrote when."""

  def __init__(self) -> None:
    self._streams = sys.stdout, sys.stderr
    self._last, self._shown = time.monotonic(), False
    self._lock, self._over = threading.RLock(), threading.Event()
    self._watched = tuple(_Watched(stream, self) for stream in self._streams)
    sys.stdout, sys.stderr = self._watched
    threading.Thread(target=self._run, daemon=True).start()

  def close(self) -> None:
    self._over.set()
    self.before_writing()
    for name, watched, stream in zip(('stdout', 'stderr'), self._watched, self._streams, strict=True):
      if getattr(sys, name) is watched:
        setattr(sys, name, stream)

  def before_writing(self) -> None:
    """Note that the command writes something; remove the line of a terminal."""
    with self._lock:
      self._last = time.monotonic()
      if self._shown:
        self._shown = False
        self._write('\r\x1b[K')

  def _run(self) -> None:
    terminal = self._streams[1].isatty()
    while not self._over.wait(REDRAW_SECONDS if terminal else SILENT_SECONDS / 8):
      with self._lock:
        if _phases and time.monotonic() - self._last >= SILENT_SECONDS and not self._over.is_set():
          self._write(f'\r\x1b[K{_phases[-1]}' if terminal else f'{_phases[-1]}\n')
          self._shown = terminal
          self._last = self._last if terminal else time.monotonic()

  def _write(self, text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed pipe ends the command elsewhere
      self._streams[1].write(text)
      self._streams[1].flush()


class _Watched:
  """A stream that tells the display of each write."""

  def __init__(self, stream: TextIO, display: _Display):
    self._stream, self._tell = stream, display

  def write(self, text: str) -> int:
    self._tell.before_writing()
    return self._stream.write(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)
