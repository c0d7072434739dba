"""Captions for clips without one, made by a function of the user."""

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
from vdm_jax.data.sources.contract import PROVIDED
from vdm_jax.data.sources.stored_clips import StoredClips
from vdm_jax.data.sources.walking import check_inside
from vdm_jax.inputs.captions import clean
from vdm_jax.runtime import progress

MAX_FRAMES = 32  # of a clip that the captioner receives
FAILURES_IN_A_ROW = 10  # after which captioning stops: the captioner itself is broken
LOG_EVERY = 100  # clips


def caption(
  clips: StoredClips,
  captioner: Callable[[np.ndarray], str],
  origin: str,
  *,
  max_frames: int = MAX_FRAMES,
  log: Callable[[str], None] | None = None,
) -> tuple[int, dict[str, str]]:
  """Caption every clip without a caption, or whose file was replaced since a captioner described it.

  Each caption is written at once as a line of the source's `captions_file`, so an interrupted run continues where it
  stopped. Clips, text files and metadata are not changed, and their captions take precedence.

  Args:
    clips: clips of a source that has a place for captions.
    captioner: turns uint8 frames `[t h w 3]`, evenly spread over the clip, into its caption.
    origin: name of the captioner, stored as text_origin.
    max_frames: frames of a clip that the captioner receives at most.
    log: receives progress messages; by default they go to the standard error.

  Returns:
    The number of captions made, and for each clip left without one the reason: it cannot be decoded, or the captioner
    failed.

  Raises:
    ValueError: the source has no place for captions, another process is captioning it, or the captioner failed on
      FAILURES_IN_A_ROW clips in a row.
  """
  if clips.source.captions_file is None:
    raise ValueError(f'{clips.path}: captions cannot be stored beside this kind of data; use a folder of clips.')
  log = log or (lambda text: print(text, file=sys.stderr))
  made, failures, in_a_row = 0, {}, 0
  known = metadata.read_generated(clips.source.captions_file.parent.resolve())
  with _journal(clips.source.captions_file) as file:
    for index, name in enumerate(clips.names):
      if clips.description(index)[0] and not _is_stale(clips, index, known.get(name)):
        continue
      progress.note(f'clip {index + 1} of {len(clips)}')
      try:
        frames = clips.spread(index, max_frames).video
      except (ValueError, OSError, MemoryError) as error:
        failures[name] = str(error)
        continue
      try:
        text = _checked(captioner(frames))
      except Exception as error:  # a captioner may raise anything, and the other clips still need captions
        failures[name] = f'{os.path.join(clips.path, name)}: {origin} failed ({type(error).__name__}: {error}).'
        in_a_row += 1
        if in_a_row == FAILURES_IN_A_ROW:
          raise ValueError(f'{origin} failed on {in_a_row} clips in a row, last on {failures[name]}') from error
        continue
      line = {'file_name': name, 'text': text, 'text_origin': origin}
      file.write(json.dumps(line | {'file_hash': clips.file_hash(index, times=False)}) + '\n')
      file.flush()
      made, in_a_row = made + 1, 0
      if made % LOG_EVERY == 0:
        log(f'{made} captions made')
  return made, failures


def _is_stale(clips: StoredClips, index: int, known: metadata.GeneratedCaption | None) -> bool:
  """Whether the caption of a clip was generated for another file of its name."""
  if known is None or not known.file_hash or clips.caption_origin(index) == PROVIDED:
    return False
  try:
    return clips.file_hash(index, times=False) != known.file_hash
  except OSError:  # found when the clip is read
    return False


def _checked(text: object) -> str:
  if not isinstance(text, str):
    raise TypeError(f'it returned {type(text).__name__}, but a caption must be a str')
  if not (caption := clean(text)):
    raise ValueError('it returned an empty caption')
  return caption


@contextlib.contextmanager
def _journal(path: pathlib.Path) -> Iterator[IO[str]]:
  """Open the file of captions to append to, with an exclusive lock; an incomplete last line is removed."""
  check_inside(path, path.parent.resolve())
  with open(path, 'a', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(f'{path}: another process is writing captions to it; wait until it ends.') from error
    except OSError:  # not every file system supports locks
      pass
    with open(path, 'rb') as whole:
      content = whole.read()
    os.truncate(path, content.rfind(b'\n') + 1)
    try:
      yield file
    finally:
      if not file.tell():
        path.unlink()
