"""Plans of long videos: which frames each call of a model makes and which it sees, as plain data.

A model makes a window of `block` frames at a time. Every window sees all of its frames that already exist, either given
or made by an earlier window. Extension, interpolation, super-resolution and hierarchies (VDM sections 3.1 and 4.3.3,
Snap appendix C.5) differ only in the frames that exist at the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Window(NamedTuple):
  """One call of the model. All tuples have one entry per frame of the window.

  Attributes:
    frames: evenly spaced positions in the whole video; frames past its end are made and discarded.
    seen: True for frames that exist before this window.
    kept: True for frames that this window writes.
    low_seen: True for frames that exist at low resolution.

  >>> from vdm_jax.generation import extension
  >>> window = extension(6, block=4, overlap=2).windows[1]
  >>> window.frames, window.seen, window.first_kept
  ((2, 3, 4, 5), (True, True, False, False), 4)
  """

  frames: tuple[int, ...]
  seen: tuple[bool, ...]
  kept: tuple[bool, ...]
  low_seen: tuple[bool, ...]

  @property
  def stride(self) -> int:
    """Distance between neighboring frames of the window, in frames of the whole video."""
    return self.frames[1] - self.frames[0] if len(self.frames) > 1 else 1

  @property
  def first_kept(self) -> int:
    """First position that the window writes."""
    return self.frames[self.kept.index(True)]


class Plan(NamedTuple):
  """The windows of a long video.

  Attributes:
    num_frames: length of the video.
    windows: in the order in which they are made.
    given: positions of frames that exist at the start.
    low: positions of frames given at low resolution.

  >>> from vdm_jax.generation import extension
  >>> print(extension(12, block=8, overlap=4))
  12 frames in 2 windows of 8
       1: makes 0-7
       2: makes 8-11; sees 4-7
  """

  num_frames: int
  windows: tuple[Window, ...]
  given: tuple[int, ...] = ()
  low: tuple[int, ...] = ()

  @property
  def block_starts(self) -> tuple[int, ...]:
    """Positions, at the highest frame rate, where a window's new frames follow another's: the possible seams."""
    return tuple(sorted({window.first_kept for window in self.windows if window.stride == 1}))

  def __str__(self) -> str:
    lines = [f'{self.num_frames} frames in {len(self.windows)} windows of {len(self.windows[0].frames)}']
    for number, window in enumerate(self.windows):
      every = f' in steps of {window.stride}' if window.stride > 1 else ''
      made, seen, low = (_ranges(window, which) for which in (window.kept, window.seen, window.low_seen))
      sees = '; '.join(filter(None, (seen and f'sees {seen}', low and f'sees {low} at low resolution')))
      lines.append(f'  {number + 1:4d}: makes {made}{every}{"; " + sees if sees else ""}')
    return '\n'.join(lines)


def extension(num_frames: int, block: int, *, overlap: int, given: int = 0) -> Plan:
  """Return a plan that extends the first `given` frames to `num_frames` (VDM section 4.3.3).

  With 0 < given < block the first window starts with the given frames and sees all of them: this is video prediction.
  The last window is moved back to end with the video, and so may see more frames.

  Args:
    num_frames: length of the video, given frames included.
    block: frames per window.
    overlap: frames that each window after the first sees, 1 <= overlap < block.
    given: number of given frames.

  Raises:
    ValueError: an argument is out of range, or there is nothing to make.

  >>> from vdm_jax.generation import extension
  >>> [window.first_kept for window in extension(64, block=16, overlap=8).windows]
  [0, 16, 24, 32, 40, 48, 56]
  """
  if given >= num_frames:
    raise ValueError(
      f'num_frames={num_frames}, but {given} frames are given: ask for more frames in all, or give fewer.'
    )
  return Plan(num_frames, _fill(range(given), num_frames, block, overlap), given=tuple(range(given)))


def interpolation(num_given: int, factor: int, block: int, *, overlap: int = 1, num_frames: int | None = None) -> Plan:
  """Return a plan with `factor - 1` new frames between each two given ones (VDM section 3.1).

  A window keeps its frames up to its last given one, unless it sees the last one of the video, so that every frame
  between two given ones is made by a window that sees both.

  Args:
    num_given: number n of given frames, at least 2.
    factor: frames of the video per given frame, 2 <= factor < block.
    block: frames per window.
    overlap: earlier frames that each window sees, 1 <= overlap <= block - factor.
    num_frames: length of the video; None: (n - 1) factor + 1, which the given frames span. Up to factor - 1 more are
      extrapolated.

  Raises:
    ValueError: an argument is out of range.

  >>> from vdm_jax.generation import interpolation
  >>> plan = interpolation(3, factor=4, block=8)
  >>> plan.num_frames, plan.given
  (9, (0, 4, 8))
  """
  if num_given < 2:
    raise ValueError(f'{num_given} frames are given, but interpolation needs two or more: give a longer clip.')
  if not 2 <= factor < block:
    raise ValueError(
      f'a factor of {factor} cannot be interpolated with windows of {block} frames, which must hold two given frames: '
      f'choose 2 to {block - 1}, or interpolate several times.'
    )
  given, num_frames = _spread(num_given, factor, num_frames)
  return Plan(num_frames, _fill(given, num_frames, block, overlap, factor=factor), given=given)


def super_resolution(
  num_low: int, block: int, *, factor: int = 1, overlap: int = 1, num_frames: int | None = None
) -> Plan:
  """Return a plan of super-resolution in space and, with a factor above 1, in time (VDM section 3.1, Fig. 2).

  Block-autoregressive: a window sees its low-resolution frames and `overlap` frames of the window before.

  Args:
    num_low: number n of low-resolution frames.
    block: frames per window.
    factor: frames of the video per low-resolution frame, 1 <= factor < block.
    overlap: earlier frames that each window sees, 1 <= overlap <= block - factor.
    num_frames: length of the video; None: (n - 1) factor + 1, which the low-resolution frames span. Up to factor - 1
      more are extrapolated: in Fig. 2, with 64 frames from 16 at a frame skip of 4, the last three.

  Raises:
    ValueError: an argument is out of range.

  >>> from vdm_jax.generation import super_resolution
  >>> plan = super_resolution(16, block=9, factor=4, num_frames=64)
  >>> len(plan.windows), plan.low[:3]
  (8, (0, 4, 8))
  """
  if not 1 <= factor < block:
    raise ValueError(
      f'a temporal factor of {factor} cannot be made with windows of {block} frames: choose 1 to {block - 1}.'
    )
  low, num_frames = _spread(num_low, factor, num_frames)
  return Plan(num_frames, _fill((), num_frames, block, overlap, low, factor), low=low)


def hierarchy(num_frames: int, frame_rates: Sequence[float], block: int, *, overlap: int = 1) -> Plan:
  """Return a plan at the lowest frame rate, extended block by block, then interpolated to each higher one (Snap C.5).

  Every level sees all frames that exist. Frames past the last one of the lowest rate are extrapolated.

  Args:
    num_frames: length of the video at the highest rate.
    frame_rates: increasing frames per second, such as 2, 8, 24. Each divides the next, with a quotient below `block`.
    block: frames per window.
    overlap: earlier frames that each window sees, 1 <= overlap <= block - quotient.

  Raises:
    ValueError: an argument is out of range.

  >>> from vdm_jax.generation import hierarchy
  >>> [window.stride for window in hierarchy(17, (2, 8), block=8).windows]
  [4, 1, 1, 1, 1]
  """
  for low, high in zip(frame_rates[:-1], frame_rates[1:], strict=True):
    if not (0 < low < high and (high / low).is_integer() and high / low < block):
      raise ValueError(
        f'frame rate {high:g} cannot follow {low:g}: each must be a whole multiple of the one before, at most '
        f'{block - 1} times as high for windows of {block} frames, such as {low:g}, {2 * low:g}.'
      )
  if not frame_rates:
    raise ValueError('frame_rates is empty: give at least one, such as 2, 8.')
  windows: list[Window] = []
  exist, before = range(0), 0
  for rate in frame_rates:
    stride = round(frame_rates[-1] / rate)
    known = [frame // stride for frame in exist]
    level = _fill(known, (num_frames - 1) // stride + 1, block, overlap, factor=before // stride or 1)
    windows += [window._replace(frames=tuple(stride * frame for frame in window.frames)) for window in level]
    exist, before = range(0, num_frames, stride), stride
  return Plan(num_frames, tuple(windows))


def _fill(
  exist: Iterable[int], num_frames: int, block: int, overlap: int, low: tuple[int, ...] = (), factor: int = 1
) -> tuple[Window, ...]:
  """Return windows from left to right until no frame is missing; known frames are `factor` apart."""
  if overlap < 1:
    raise ValueError(
      f'overlap={overlap}, but a window must see a frame of the one before: choose 1 to {block - factor}.'
    )
  if overlap > block - factor:
    ahead = f' and leave room for the next known frame, {factor} further on' if factor > 1 else ''
    raise ValueError(
      f'overlap={overlap} must be below the {block} frames of a window{ahead}: choose 1 to {block - factor}.'
    )
  if num_frames < 1:
    raise ValueError(f'num_frames={num_frames}: ask for one frame or more.')
  exist = set(exist)
  anchors = sorted(exist | set(low))
  windows: list[Window] = []
  missing = iter(range(num_frames))
  while (first := next((frame for frame in missing if frame not in exist), None)) is not None:
    start = first - overlap if windows or first >= block else 0
    start = max(0, min(start, num_frames - block))
    frames = range(start, start + block)
    inside = [anchor for anchor in anchors if first < anchor < start + block]
    end = inside[-1] + 1 if inside and anchors[-1] >= start + block else start + block
    kept = tuple(frame not in exist and frame < min(end, num_frames) for frame in frames)
    windows.append(Window(tuple(frames), tuple(f in exist for f in frames), kept, tuple(f in low for f in frames)))
    exist.update(frame for frame, keep in zip(frames, kept, strict=True) if keep)
  return tuple(windows)


def _spread(count: int, factor: int, num_frames: int | None) -> tuple[tuple[int, ...], int]:
  """Return the positions of known frames `factor` apart, and the length of the video."""
  span = (count - 1) * factor + 1
  num_frames = span if num_frames is None else num_frames
  if not span <= num_frames <= count * factor:
    raise ValueError(
      f'num_frames={num_frames}, but {count} frames at a factor of {factor} span {span}, and at most {factor - 1} more '
      f'are extrapolated: choose {span} to {count * factor}.'
    )
  return tuple(range(0, span, factor)), num_frames


def _ranges(window: Window, which: Sequence[bool]) -> str:
  """Return the chosen frames of a window as text, such as `0-7, 12`; the frames of a run are a stride apart."""
  runs: list[list[int]] = []
  for frame, chosen in zip(window.frames, which, strict=True):
    if chosen and runs and frame - runs[-1][-1] == window.stride:
      runs[-1].append(frame)
    elif chosen:
      runs.append([frame])
  return ', '.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)
