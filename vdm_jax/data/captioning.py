"""Captions for the clips of a folder that have none, by a function of the user's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from vdm_jax.data.sources import metadata
from vdm_jax.data.sources.folder import Folder

MAX_FRAMES = 32  # of a clip that the captioner is shown
FAILURES_IN_A_ROW = 10  # after which it is the captioner that is broken
SAID_EVERY = 100  # clips


def caption(
  source: Folder,
  captioner: Callable[[np.ndarray], str],
  origin: str,
  *,
  max_frames: int = MAX_FRAMES,
  say: Callable[[str], None] | None = None,
) -> tuple[int, dict[str, str]]:
  """Captions every clip of `source` without a caption; returns how many it did, and the reasons of those it could not.

  `captioner` gets uint8 [t h w 3], at most `max_frames` frames spread evenly over the clip, and returns its caption.
  Each is at once a line of `captions.jsonl` in the folder, with `origin` (who made it) as text_origin; clips, text
  files and metadata stay as they are, and their captions come first. So a run that was stopped goes on where it was.

  A clip that cannot be decoded, or that the captioner fails on, is left without. Raises ValueError when it fails on
  FAILURES_IN_A_ROW clips one after another, and if another process is at work on the folder.
  """
  say = say or (lambda text: print(text, file=sys.stderr))
  made, failures, in_a_row = 0, {}, 0
  with _journal(pathlib.Path(source.path) / metadata.MADE) as file:
    for index, name in enumerate(source.names):
      if source.caption(index):
        continue
      try:
        frames = source.spread(index, max_frames).video
      except (ValueError, OSError, MemoryError) as error:
        failures[name] = str(error)
        continue
      try:
        text = _checked(captioner(frames))
      except Exception as error:  # a captioner may raise anything, and the others are still to be done
        failures[name] = f'{os.path.join(source.path, name)}: {origin} failed ({type(error).__name__}: {error}).'
        in_a_row += 1
        if in_a_row == FAILURES_IN_A_ROW:
          raise ValueError(f'{origin} failed on {in_a_row} clips in a row, last on {failures[name]}') from error
        continue
      file.write(json.dumps({'file_name': name, 'text': text, 'text_origin': origin}) + '\n')
      file.flush()
      made, in_a_row = made + 1, 0
      if made % SAID_EVERY == 0:
        say(f'{made} captions made')
  return made, failures


def _checked(text: object) -> str:
  if not isinstance(text, str):
    raise TypeError(f'it returned {type(text).__name__}, but a caption is a str')
  if not (caption := ' '.join(text.split())):
    raise ValueError('it returned an empty caption')
  return caption


@contextlib.contextmanager
def _journal(path: pathlib.Path) -> Iterator[IO[str]]:
  """The file of captions, to append to, with this process as the only one; half a last line is cut off."""
  metadata.check_inside(path, path.parent.resolve())
  with open(path, 'a', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(f'{path}: another process is writing captions to it; wait for it to end.') from error
    except OSError:  # not every file system can lock
      pass
    with open(path, 'rb') as whole:
      content = whole.read()
    os.truncate(path, content.rfind(b'\n') + 1)
    try:
      yield file
    finally:
      if not file.tell():
        path.unlink()
