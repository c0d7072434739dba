"""A folder of video files with captions beside them."""

from __future__ import annotations

import os
import pathlib
import zlib

import numpy as np

from vdm_jax.data import transforms, video_io
from vdm_jax.data.clip import Clip

SUFFIXES = ('.mp4', '.mov', '.m4v', '.mkv', '.webm', '.avi', '.gif')
LAYOUT = (
  f'A data folder holds clips ({", ".join(SUFFIXES)}), each with an optional caption beside it: '
  'clip.mp4 and clip.txt.'
)
HELD_OUT_EVERY = 10
CHECKED_AT_START = 256  # so that a large folder does not delay the start; other clips are checked when read


class Folder:
  """The clips of one split below `path`, in the order of their names, by random access.

  One clip in ten, by a hash of its name, belongs to the test split, and one at least where there are two or
  more. Every clip must hold `num_frames` frames, each `max_frame_skip` after the one before.

  Raises FileNotFoundError if there is no such folder, and ValueError if it has no clip for this split, or one
  that is too short, has no frame rate, cannot be decoded or is a link to somewhere else.
  """

  num_classes = None

  def __init__(self, path: str | os.PathLike, split: str, *, num_frames: int, max_frame_skip: int = 1):
    if not os.fspath(path):
      raise ValueError(f'data.path is empty, but it must name a folder of clips. {LAYOUT}')
    if not os.path.isdir(path):
      raise FileNotFoundError(f'data.path={str(path)!r} is not a folder; check the path. {LAYOUT}')
    self._root = pathlib.Path(path).resolve()
    everything = _list_clips(self._root)
    if not everything:
      raise ValueError(f'data.path={str(path)!r} has no clips. {LAYOUT}')
    self.names = _split(everything, split)
    if not self.names:
      raise ValueError(
        f'data.path={str(path)!r} has only one clip, so that none is left for the test split; '
        'add clips, or use the train split alone.'
      )
    self._all_names = everything
    chosen = np.linspace(0, len(self.names) - 1, min(len(self.names), CHECKED_AT_START)).astype(int)
    for i in chosen:
      _check_clip(self._root / self.names[i], num_frames, max_frame_skip)

  def __len__(self) -> int:
    return len(self.names)

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words of the captions of both splits, in lower case, sorted."""
    return tuple(sorted({word for caption in self.captions for word in caption.lower().split()}))

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions of both splits, each once, sorted; '' is that of a clip without one."""
    return tuple(sorted({self._caption(self._root / name) for name in self._all_names}))

  def read(self, index: int, rng: np.random.Generator, num_frames: int, frame_skip: int = 1) -> Clip:
    """`num_frames` frames of clip `index`, each `frame_skip` after the one before, from a random start.

    Only these are decoded.
    """
    path = self._root / self.names[index]
    info = _check_clip(path, num_frames, frame_skip)
    start = transforms.window_start(info.num_frames, num_frames, frame_skip, rng)
    video = video_io.read_video(path, start=start, num_frames=num_frames, frame_skip=frame_skip)
    return Clip(video, self._caption(path), None, info.frame_rate / frame_skip, video.shape[1:3])

  def _caption(self, path: pathlib.Path) -> str:
    """The text file beside a clip with white space made single, '' if there is none."""
    file = path.with_suffix('.txt')
    if not file.is_file():
      return ''
    _check_inside(file, self._root)
    return ' '.join(file.read_text(encoding='utf-8', errors='replace').split())


def _check_clip(path: pathlib.Path, num_frames: int, frame_skip: int) -> video_io.VideoInfo:
  info = video_io.probe(path)
  span = (num_frames - 1) * frame_skip + 1
  if info.num_frames < span:
    raise ValueError(
      f'{path} has {info.num_frames} frames, but data.num_frames={num_frames} with a frame skip of {frame_skip} '
      f'needs {span}; remove the clip, or lower data.num_frames, data.frame_skip or data.frame_skip_max.'
    )
  if num_frames > 1 and not info.frame_rate:
    raise ValueError(f'{path} does not tell its frame rate; re-encode or remove the file.')
  return info


def _list_clips(root: pathlib.Path) -> list[str]:
  """Names of all clips relative to the root, with forward slashes, sorted; hidden ones are left out."""
  names = []
  for folder, subfolders, files in os.walk(root):
    subfolders[:] = [name for name in subfolders if not name.startswith('.')]
    for name in files:
      path = pathlib.Path(folder, name)
      if path.suffix.lower() in SUFFIXES and not name.startswith('.'):
        _check_inside(path, root)
        names.append(path.relative_to(root).as_posix())
  return sorted(names)


def _check_inside(path: pathlib.Path, root: pathlib.Path) -> None:
  if path.is_symlink() and not path.resolve().is_relative_to(root):
    raise ValueError(f'{path} is a link to a place outside of data.path; copy the file instead.')


def _split(names: list[str], split: str) -> list[str]:
  hashes = {name: zlib.crc32(name.encode('utf-8', 'surrogateescape')) for name in names}
  held_out = {name for name in names if hashes[name] % HELD_OUT_EVERY == 0}
  if len(names) == 1:
    held_out = set()
  elif len(held_out) in (0, len(names)):
    held_out = {min(names, key=hashes.__getitem__)}
  return [name for name in names if (name in held_out) == (split == 'test')]
