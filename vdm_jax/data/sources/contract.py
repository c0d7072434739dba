"""The contract of a source of clips: what a new kind of data implements, and what the pipeline reads.

`Source` is all clips of one stored data set: subclass it, and add an entry to `catalog.KINDS`. `Clips` is one split of
any data, as batches are made from it; data that are not stored, such as rendered digits, implement it directly.
"""

from __future__ import annotations

import abc
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from vdm_jax.inputs.text_files import UnreadableText
from vdm_jax.video.reading import VideoInfo

SPLITS = ('train', 'test')
HELD_OUT_EVERY = 10
PROVIDED = 'provided'  # origin of a caption that came with its clip


class OutsideError(ValueError):
  """A file of a data set is a link that leads out of its folder: never read, and never only skipped."""


class EmptySplit(ValueError):
  """A data set has no clips of one of its splits, such as a single clip, of which none is held out."""


class Clip(NamedTuple):
  """Evenly spaced frames and their description."""

  video: np.ndarray  # uint8 [t h w c], or other numbers if data.normalization says so
  caption: str  # '' when the clip has none
  label: int | None  # class number, None when the clip has none
  frame_rate: float  # frames per second of `video`; 0 (unknown) only for a single frame
  resolution: tuple[int, int]  # height and width in pixels before any resizing


class Clips(Protocol):
  """The clips of one split by random access: what batches are made from. Picklable, for worker processes.

  Optional members: `captions`, all captions of both splits, each once, sorted, without which text embeddings cannot be
  cached; `class_names`, the name of each label; and `caption(index)` and `label(index)`, which read no frames.
  """

  @property
  def num_classes(self) -> int | None:
    """Number of labels; None if the clips have none."""

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words that captions can contain, sorted; see `inputs.captions`."""

  def __len__(self) -> int: ...

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """Return `num_frames` frames of a clip, each `frame_skip` frames after the previous one.

    Everything random is drawn from `rng`; with None, the frames are the first ones of the clip.
    """


class Source(Protocol):
  """All clips of one stored data set, numbered from 0 in the order of `names`.

  `__init__` takes `data.path`. It raises FileNotFoundError or ValueError if no such data set is there, and decodes no
  clips. Instances are pickled into worker processes and used by several threads at once.

  Splits, windows of frames, frame skips and rates, and the replacement of unusable clips are not its concern:
  `StoredClips` adds them.

  Attributes:
    path: `data.path`, as it was passed, for messages.
    names: unique names of the clips of both splits. The name of a clip that is a file or a folder is its path below
      `path`: conversions and evaluations then notice that it was replaced. Otherwise they look at all files of `path`.
    num_classes: number of labels; None if clips have none.
    class_names: names of the labels 0, 1, ...; None if only their numbers are known.
    without_frame_rate: name of a clip that is known, without opening it, to have no frame rate; None if there is none.
    single_frame: whether every clip is one frame, so that the data are images.
    captions_file: where `python -m vdm_jax.data caption` stores captions; None if there is no place for them.
    remarks: what was left out although it looks as if it belongs to the data, one sentence each, for reports.
    follows_links: whether `__init__` takes `follow_links`, with which links may lead out of the folder.
  """

  path: str
  names: Sequence[str]
  num_classes: int | None = None
  class_names: tuple[str, ...] | None = None
  without_frame_rate: str | None = None
  single_frame: bool = False
  captions_file: pathlib.Path | None = None
  remarks: Sequence[str] = ()
  follows_links: ClassVar[bool] = False

  @classmethod
  def recognizes(cls, path: pathlib.Path) -> bool:
    """Return whether the data at `path` are of this kind, for commands that get only a path; never by default."""
    return False

  @abc.abstractmethod
  def info(self, clip: int) -> VideoInfo:
    """Return the number of frames, the frame rate (0 if unknown) and the height and width of a clip.

    Raises:
      ValueError or OSError: the clip cannot be used; the message names its file and the fix.
    """

  @abc.abstractmethod
  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    """Return the frames of these numbers, which increase: `[t h w c]`. Raises as `info`.

    Pictures are uint8 with 1 or 3 channels; data of other types or channels need `data.normalization`.
    """

  def times(self, clip: int) -> np.ndarray | None:
    """Return the time of each frame after the first one in seconds, float64 `[t]`; None at a constant frame rate.

    Raises as `info`.
    """
    return None

  def notes(self, clip: int) -> Sequence[str]:
    """Return what is unusual about the pictures of a clip, such as 'interlaced', which `inspect` counts.

    Some of it may be known only after frames have been read. Raises as `info`.
    """
    return ()

  def caption(self, clip: int) -> str:
    """Return the caption of a clip, '' if it has none.

    If captions are in the files of the clips, raises as `info` for a file that cannot be read. Where the captions of
    all clips are listed, such as for the vocabulary, that clip then counts as one without a caption.
    """
    return ''

  def caption_origin(self, clip: int) -> str | None:
    """Return what made the caption: `PROVIDED`, or the name of a captioner; None if unknown or there is no caption."""
    return None

  def label(self, clip: int) -> int | None:
    """Return the class number of a clip, None if clips have none. Raises as `caption`."""
    return None

  def resolution(self, clip: int) -> tuple[int, int] | None:
    """Return the height and width of a clip before it was stored, if they differ from those of its frames."""
    return None

  def held_out(self) -> set[str]:
    """Return the names of the test split; by default one in ten, by a hash of the name."""
    return held_out_by_hash(self.names)


def held_out_by_hash(names: Sequence[str]) -> set[str]:
  """Return one name in ten, chosen by a hash of the name, and at least one of two or more names."""
  hashes = {name: zlib.crc32(name.encode('utf-8', 'surrogateescape')) for name in names}
  held_out = {name for name in names if hashes[name] % HELD_OUT_EVERY == 0}
  if len(names) == 1:
    return set()
  if len(held_out) in (0, len(names)):
    return {min(names, key=hashes.__getitem__)}
  return held_out


def caption_if_readable(source: Source, clip: int) -> str:
  """Return the caption of a clip, '' if it has none or its file cannot be read, which is found when it is opened.

  Raises:
    OutsideError: the caption is a link that leads out of the data set.
    UnreadableText: it is in another encoding, as all others may be.
  """
  try:
    return source.caption(clip)
  except (OutsideError, UnreadableText):
    raise
  except (ValueError, OSError):
    return ''


def clip_path(source: Source, clip: int) -> str:
  """Return `path/name` of a clip, for messages."""
  return os.path.join(source.path, source.names[clip])
