"""One split of a source: windows of frames at a frame rate, and which clips are too short or too slow for them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.normalization import check_frames
from vdm_jax.data.sources.contract import Clip, EmptySplit, Source, caption_if_readable, clip_path
from vdm_jax.inputs import captions
from vdm_jax.runtime.hashing import BLOCKS, quick_hash
from vdm_jax.video import transforms
from vdm_jax.video.opening import MAX_BYTES, check_bytes
from vdm_jax.video.reading import VideoInfo
from vdm_jax.video.timed_windows import TimedWindows, mean_frame_rate


def skip_in_clip_frames(
  num_frames: int, frame_skip: float, frame_rate: float, target_frame_rate: float
) -> float | None:
  """Convert a frame skip that counts frames at the target rate into frames of the clip.

  Args:
    num_frames: frames of the window.
    frame_skip: distance of two frames of the window, in frames at the target rate.
    frame_rate: frames per second of the clip.
    target_frame_rate: frames per second; 0 leaves the skip unchanged.

  Returns:
    The skip, at least 1; None if the clip is so slow that the window would contain one of its frames twice.
  """
  if not target_frame_rate:
    return frame_skip
  skip = frame_skip * frame_rate / target_frame_rate
  return max(skip, 1.0) if transforms.window_span(num_frames, skip) >= num_frames else None


class StoredClips:
  """The clips of one split of a source by random access, in the order of the source's names; see `contract.Clips`.

  With a `target_frame_rate`, a window takes the frames of the clip that are nearest in time, and its frame rate is the
  target rate. Clips so slow that a frame would appear twice are unusable; 23.976 frames per second pass for 24. In a
  clip whose frame rate varies, frames are picked by their own times, and the frame rate is the mean of the window.

  Args:
    source: all clips of a data set.
    split: 'train' or 'test'.
    num_frames: frames of a window. A usable clip has room for a window at `max_frame_skip`.
    max_frame_skip: largest frame skip that will be requested.
    min_frame_skip: smallest frame skip that will be requested.
    frame_rate: frames per second of clips whose files have no frame rate; 0 if unknown.
    target_frame_rate: frames per second that frames are picked at; 0 keeps those of the clips.
    train_on_all: add the test split to the train split.
    expected: what frames must be, see `normalization.check_frames`; None: anything.

  Raises:
    EmptySplit: the split has no clips.
    ValueError: a frame rate is needed and unknown.
  """

  def __init__(
    self,
    source: Source,
    split: str,
    *,
    num_frames: int,
    max_frame_skip: int = 1,
    min_frame_skip: int = 1,
    frame_rate: float = 0.0,
    target_frame_rate: float = 0.0,
    train_on_all: bool = False,
    expected: str | None = None,
  ):
    self._expected = expected
    self.source, self._held_out = source, source.held_out()
    in_split = {
      'train': lambda name: train_on_all or name not in self._held_out,
      'test': lambda name: name in self._held_out,
    }[split]
    self._numbers = [clip for clip, name in enumerate(source.names) if in_split(name)]
    self.names = [source.names[clip] for clip in self._numbers]
    self._num_frames, self._frame_skips = num_frames, (min_frame_skip, max_frame_skip)
    self._frame_rate, self._target_frame_rate = frame_rate, target_frame_rate
    self._shared_hashes: dict[tuple[bool, int], str] = {}  # of all files together, by the arguments of `file_hash`
    if num_frames > 1 and source.single_frame:
      raise ValueError(
        f'data.path={self.path!r} holds images, which are clips of one frame, but data.num_frames={num_frames}; set '
        'it to 1, or list the images in data.images.'
      )
    if num_frames > 1 and not frame_rate and source.without_frame_rate is not None:
      where = clip_path(source, list(source.names).index(source.without_frame_rate))
      raise ValueError(
        f'data.frame_rate=0, but {where} has no frame rate; set it to the frames per second of the clips.'
      )
    if not self.names:
      raise EmptySplit(
        f'data.path={self.path!r} has {_count(self.total, "clip")}, so none is left for the {split} split; add clips, '
        'or use the other split alone.'
      )

  def __len__(self) -> int:
    return len(self.names)

  @property
  def path(self) -> str:
    """`data.path`, for messages."""
    return self.source.path

  @property
  def frame_rate(self) -> float:
    """Frames per second of clips whose files have no frame rate; 0 if unknown."""
    return self._frame_rate

  @property
  def total(self) -> int:
    """Number of clips of both splits."""
    return len(self.source.names)

  @property
  def num_classes(self) -> int | None:
    """Number of labels; None if the clips have none."""
    return self.source.num_classes

  @property
  def class_names(self) -> tuple[str, ...] | None:
    """Names of the labels 0, 1, ...; None if only their numbers are known."""
    return self.source.class_names

  @property
  def remarks(self) -> Sequence[str]:
    """What the data set leaves out, as `Source.remarks`."""
    return self.source.remarks

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words of the captions of both splits, sorted; see `inputs.captions`."""
    return captions.vocabulary(self.captions)

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions of both splits, each once, sorted; a clip without a caption, or that cannot be read, has ''."""
    return tuple(sorted({caption_if_readable(self.source, clip) for clip in range(self.total)}))

  def check(self, index: int) -> VideoInfo:
    """Return the info of a clip without decoding its frames.

    Raises:
      ValueError or OSError: the clip is too short or too slow for a window, or it or its caption cannot be read.
    """
    clip, skips = self._numbers[index], sorted(set(self._frame_skips))
    self.source.caption(clip)
    for skip in skips:
      info, step = self._usable(clip, self._num_frames, skip)
      self._pick(clip, info, step, self._num_frames, None)
    return info

  def info(self, index: int) -> VideoInfo:
    """Return the info of a clip of any length. Raises ValueError or OSError if it cannot be opened."""
    info = self.source.info(self._numbers[index])
    return info._replace(frame_rate=info.frame_rate or self._frame_rate)

  def times(self, index: int) -> np.ndarray | None:
    """Return the time of each frame of a clip, as `Source.times`."""
    return self.source.times(self._numbers[index])

  def notes(self, index: int) -> Sequence[str]:
    """Return what is unusual about the pictures of a clip, as `Source.notes`."""
    return self.source.notes(self._numbers[index])

  def caption(self, index: int) -> str:
    """Return the caption of a clip, '' if it has none."""
    return self.source.caption(self._numbers[index])

  def description(self, index: int) -> tuple[str, int | None]:
    """Return the caption and the label of a clip; '' and None for those that cannot be read."""
    clip = self._numbers[index]
    try:
      label = self.source.label(clip)
    except (ValueError, OSError):
      label = None
    return caption_if_readable(self.source, clip), label

  def caption_origin(self, index: int) -> str | None:
    """Return what made the caption of a clip, as `Source.caption_origin`."""
    return self.source.caption_origin(self._numbers[index])

  def label(self, index: int) -> int | None:
    """Return the class number of a clip, None if clips have none."""
    return self.source.label(self._numbers[index])

  def file_hash(self, index: int, *, times: bool = True, blocks: int = BLOCKS) -> str:
    """Return a `quick_hash` of the file or folder of a clip; of all the data where clips share files, as in shards."""
    path = os.path.join(self.path, self.names[index])
    if os.path.exists(path):
      return quick_hash(path, times=times, blocks=blocks)
    if (times, blocks) not in self._shared_hashes:
      self._shared_hashes[times, blocks] = quick_hash(self.path, times=times, blocks=blocks)
    return self._shared_hashes[times, blocks]

  def split_of(self, index: int) -> str:
    """Return 'train' or 'test': the split of a clip without `train_on_all`."""
    return 'test' if self.names[index] in self._held_out else 'train'

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """Return `num_frames` frames of a clip, each `frame_skip` after the previous one; only these are decoded.

    They begin at a random frame, or at the first one if `rng` is None. Raises ValueError or OSError if the clip cannot
    be used.
    """
    clip = self._numbers[index]
    info, step = self._usable(clip, num_frames, frame_skip)
    numbers = self._pick(clip, info, step, num_frames, rng)
    rate = (self._target_frame_rate or info.frame_rate) / frame_skip
    return self._read(index, numbers, mean_frame_rate(self.source.times(clip), numbers, rate), info)

  def window(self, index: int, start: int, num_frames: int | None = None) -> Clip:
    """Return `num_frames` consecutive frames from `start`, or all to the end; the frame rate may be 0, unknown."""
    info = self.info(index)
    count = info.num_frames - start if num_frames is None else num_frames
    return self._read(index, transforms.frame_numbers(start, count, 1), info.frame_rate, info)

  def spread(self, index: int, max_frames: int) -> Clip:
    """Return at most `max_frames` frames of a clip, evenly spread from its first to its last."""
    info = self.info(index)
    count = min(info.num_frames, max_frames)
    skip = (info.num_frames - 1) / (count - 1) if count > 1 else 1.0
    numbers = transforms.frame_numbers(0, count, skip)
    return self._read(index, numbers, mean_frame_rate(self.times(index), numbers, info.frame_rate / skip), info)

  def _read(self, index: int, numbers: Sequence[int], frame_rate: float, info: VideoInfo) -> Clip:
    clip = self._numbers[index]
    check_bytes(clip_path(self.source, clip), len(numbers), *info.resolution, MAX_BYTES)
    video = self.source.frames(clip, numbers)
    if self._expected is not None:
      check_frames(video, clip_path(self.source, clip), self._expected)
    resolution = self.source.resolution(clip) or video.shape[1:3]
    return Clip(video, self.source.caption(clip), self.source.label(clip), frame_rate, resolution)

  def _usable(self, clip: int, num_frames: int, frame_skip: int) -> tuple[VideoInfo, float | TimedWindows]:
    """Return the info of a clip and its frame skip in its own frames, or its windows if they have none.

    Raises ValueError or OSError if it is too short or too slow.
    """
    info, name = self.source.info(clip), clip_path(self.source, clip)
    rate = info.frame_rate or self._frame_rate
    skip, spacing = frame_skip, f'a frame skip of {frame_skip}'
    if self._target_frame_rate and (times := self.source.times(clip)) is not None:
      return info._replace(frame_rate=rate), TimedWindows(times, num_frames, frame_skip / self._target_frame_rate)
    if self._target_frame_rate and rate:
      skip = skip_in_clip_frames(num_frames, frame_skip, rate, self._target_frame_rate)
      wanted = self._target_frame_rate / frame_skip
      spacing = f'{wanted:g} of its {rate:g} frames per second'
      if skip is None:
        raise ValueError(
          f'{name} has {rate:g} frames per second, too few for {wanted:g}; remove the clip, lower '
          'data.target_frame_rate, or raise data.frame_skip.'
        )
    span = transforms.window_span(num_frames, skip)
    if info.num_frames < span:
      raise ValueError(
        f'{name} has {_count(info.num_frames, "frame")}, but data.num_frames={num_frames} with {spacing} needs {span}; '
        'remove the clip, or lower data.num_frames, data.frame_skip or data.frame_skip_max.'
      )
    if num_frames > 1 and not rate:
      raise ValueError(f'{name} has no frame rate; re-encode or remove the file, or set data.frame_rate.')
    return info._replace(frame_rate=rate), skip

  def _pick(
    self, clip: int, info: VideoInfo, step: float | TimedWindows, num_frames: int, rng: np.random.Generator | None
  ) -> list[int]:
    """Return the numbers of the frames of a random window, or of the first one if `rng` is None."""
    if not isinstance(step, TimedWindows):
      start = transforms.window_start(info.num_frames, num_frames, step, rng)
      return transforms.frame_numbers(start, num_frames, step)
    try:
      return step.draw(rng)
    except ValueError as error:
      raise ValueError(
        f'{clip_path(self.source, clip)} {error}; remove the clip, or lower data.target_frame_rate or data.num_frames.'
      ) from error


def _count(number: int, noun: str) -> str:
  return f'{number} {noun}' if number == 1 else f'{number} {noun}s'
