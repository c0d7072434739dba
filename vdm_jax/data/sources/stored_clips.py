"""What all sources of stored clips share: splits, windows, captions, and what makes a clip unusable."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.sources.contract import Clip
from vdm_jax.video import transforms
from vdm_jax.video.codecs import VideoInfo
from vdm_jax.video.opening import MAX_BYTES

HELD_OUT_EVERY = 10


def held_out_names(names: Sequence[str]) -> set[str]:
  """The names of the test split: one in ten by a hash of the name, and one at least where there are two or more."""
  hashes = {name: zlib.crc32(name.encode('utf-8', 'surrogateescape')) for name in names}
  held_out = {name for name in names if hashes[name] % HELD_OUT_EVERY == 0}
  if len(names) == 1:
    return set()
  if len(held_out) in (0, len(names)):
    return {min(names, key=hashes.__getitem__)}
  return held_out


def own_skip(num_frames: int, frame_skip: float, frame_rate: float, target_frame_rate: float) -> float | None:
  """The frame skip in a clip's own frames, where `frame_skip` counts frames of the target rate; 0 as that is no target.

  None where the clip is so slow that two frames of the window would be one.
  """
  if not target_frame_rate:
    return frame_skip
  skip = frame_skip * frame_rate / target_frame_rate
  return max(skip, 1.0) if transforms.window_span(num_frames, skip) >= num_frames else None


class Stored:
  """The clips of one split by random access, in the order of their names.

  `names` are those of both splits and `held_out` those of the test split. `train_on_all` adds the test split to the
  train split. `frame_rate` is that of clips which do not tell theirs, such as `without_rate`. Every clip should hold
  `num_frames` frames, each `max_frame_skip` after the one before; `check` and `read` raise ValueError or OSError for
  one that does not, or that cannot be decoded.

  With a `target_frame_rate`, frames are counted at that rate: those of a window are the nearest in time of the clip's
  own, taken as evenly spaced, and are said to have the rate asked for. A clip is too slow where two of them would be
  one frame, and then raises as well; so 23.976 frames per second do for 24. `min_frame_skip` is the smallest skip that
  will be asked for.

  A subclass reads clip `place` of `names`: `_info`, `_frames`, and where it has them `_caption`, `_label` and
  `_resolution`. Raises ValueError if the split has no clip.
  """

  num_classes: int | None = None
  class_names: tuple[str, ...] | None = None  # of the labels 0, 1, ...; None where only their numbers are known

  def __init__(
    self,
    path: str | os.PathLike,
    split: str,
    names: Sequence[str],
    held_out: set[str],
    *,
    num_frames: int,
    max_frame_skip: int = 1,
    min_frame_skip: int = 1,
    frame_rate: float = 0.0,
    target_frame_rate: float = 0.0,
    train_on_all: bool = False,
    without_rate: str | None = None,
  ):
    wanted = {
      'train': lambda name: train_on_all or name not in held_out,
      'test': lambda name: name in held_out,
    }[split]
    self._places = [place for place, name in enumerate(names) if wanted(name)]
    self._all_names, self._held_out = list(names), held_out
    self.names = [names[place] for place in self._places]
    self.path = os.fspath(path)
    self._num_frames, self._frame_skips = num_frames, (min_frame_skip, max_frame_skip)
    self._frame_rate, self._target_frame_rate = frame_rate, target_frame_rate
    if num_frames > 1 and not frame_rate and without_rate is not None:
      raise ValueError(
        f'data.frame_rate=0, but {os.path.join(self.path, without_rate)} does not tell its frame rate; set it to its '
        'frames per second.'
      )
    if not self.names:
      raise ValueError(
        f'data.path={self.path!r} has {_count(len(names), "clip")}, so that none is left for the {split} split; '
        'add clips, or use the other split alone.'
      )

  def __len__(self) -> int:
    return len(self.names)

  @property
  def total(self) -> int:
    """Clips of both splits."""
    return len(self._all_names)

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words of the captions of both splits, in lower case, sorted."""
    return tuple(sorted({word for caption in self.captions for word in caption.lower().split()}))

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions of both splits, each once, sorted; '' is that of a clip without one."""
    return tuple(sorted({self._caption(place) for place in range(len(self._all_names))}))

  def check(self, index: int) -> VideoInfo:
    """What the file says of a clip, whose pixels are not decoded; raises unless it is long enough for any window."""
    skips, place = sorted(set(self._frame_skips)), self._places[index]
    return [self._usable(place, self._num_frames, skip)[0] for skip in skips][-1]

  def info(self, index: int) -> VideoInfo:
    """What the file says of a clip, long enough or not; raises if it says nothing."""
    info = self._info(self._places[index])
    return info._replace(frame_rate=info.frame_rate or self._frame_rate)

  def caption(self, index: int) -> str:
    return self._caption(self._places[index])

  def label(self, index: int) -> int | None:
    return self._label(self._places[index])

  def split_of(self, index: int) -> str:
    """train or test: where a clip is by itself, whatever `train_on_all` makes of it."""
    return 'test' if self.names[index] in self._held_out else 'train'

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """`num_frames` frames of clip `index`, each `frame_skip` after the one before, from a random start,
    or from the first frame without a generator.

    Only these are decoded.
    """
    info, own_skip = self._usable(self._places[index], num_frames, frame_skip)
    start = transforms.window_start(info.num_frames, num_frames, own_skip, rng)
    rate = (self._target_frame_rate or info.frame_rate) / frame_skip
    return self._clip(index, start, num_frames, own_skip, rate)

  def window(self, index: int, start: int, num_frames: int | None = None) -> Clip:
    """Frames `start` to `start + num_frames` of clip `index`, or to its end; its frame rate may be 0, not known."""
    info = self.info(index)
    return self._clip(index, start, info.num_frames - start if num_frames is None else num_frames, 1, info.frame_rate)

  def spread(self, index: int, most: int) -> Clip:
    """At most so many frames of clip `index`, evenly spread from its first to its last."""
    info = self.info(index)
    count = min(info.num_frames, most)
    skip = (info.num_frames - 1) / (count - 1) if count > 1 else 1.0
    return self._clip(index, 0, count, skip, info.frame_rate / skip)

  def _clip(self, index: int, start: int, num_frames: int, frame_skip: float, frame_rate: float) -> Clip:
    place = self._places[index]
    video = self._frames(place, start, num_frames, frame_skip, MAX_BYTES)
    resolution = self._resolution(place) or video.shape[1:3]
    return Clip(video, self._caption(place), self._label(place), frame_rate, resolution)

  def _usable(self, place: int, num_frames: int, frame_skip: int) -> tuple[VideoInfo, float]:
    """What the file says of a clip, and the frame skip in its own frames."""
    info = self._info(place)
    name = os.path.join(self.path, self._all_names[place])
    rate = info.frame_rate or self._frame_rate
    skip, asked = frame_skip, f'a frame skip of {frame_skip}'
    if self._target_frame_rate and rate:
      skip = own_skip(num_frames, frame_skip, rate, self._target_frame_rate)
      wanted = self._target_frame_rate / frame_skip
      asked = f'{wanted:g} of its {rate:g} frames per second'
      if skip is None:
        raise ValueError(
          f'{name} has {rate:g} frames per second, too few for {wanted:g}; remove the clip, lower '
          'data.target_frame_rate, or raise data.frame_skip.'
        )
    span = transforms.window_span(num_frames, skip)
    if info.num_frames < span:
      raise ValueError(
        f'{name} has {_count(info.num_frames, "frame")}, but data.num_frames={num_frames} with {asked} needs {span}; '
        'remove the clip, or lower data.num_frames, data.frame_skip or data.frame_skip_max.'
      )
    if num_frames > 1 and not rate:
      raise ValueError(f'{name} does not tell its frame rate; re-encode or remove the file, or set data.frame_rate.')
    return info._replace(frame_rate=rate), skip

  def _info(self, place: int) -> VideoInfo:
    raise NotImplementedError

  def _frames(self, place: int, start: int, num_frames: int, frame_skip: float, max_bytes: int) -> np.ndarray:
    raise NotImplementedError

  def _caption(self, place: int) -> str:
    return ''

  def _label(self, place: int) -> int | None:
    return None

  def _resolution(self, place: int) -> tuple[int, int] | None:
    """Height and width before the clip was stored, where these are others than those of its frames."""
    return None


def _count(number: int, what: str) -> str:
  return f'{number} {what}' if number == 1 else f'{number} {what}s'
