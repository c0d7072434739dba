"""Plans of long videos: which frames each call of a model makes and which it sees, as plain data.

A model makes a window of `block` frames at a time. Every window sees all of its frames that exist already, given or
made by an earlier one. Extension, interpolation, super-resolution and hierarchies (VDM sections 3.1 and 4.3.3, Snap
appendix C.5) differ only in the frames that exist at the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Window(NamedTuple):
  """One call of the model. Positions count the frames of the whole video; all tuples are of the block's length."""

  frames: tuple[int, ...]  # positions, evenly spaced; those past the video's end are made and thrown away
  seen: tuple[bool, ...]  # exist before
  kept: tuple[bool, ...]  # are written by this window
  low_seen: tuple[bool, ...]  # exist at low resolution

  @property
  def stride(self) -> int:
    """Frames of the whole video from one frame of the window to the next."""
    return self.frames[1] - self.frames[0] if len(self.frames) > 1 else 1

  @property
  def first_kept(self) -> int:
    """The first position that the window writes."""
    return self.frames[self.kept.index(True)]


class Plan(NamedTuple):
  """The windows of a video of `num_frames` frames, in the order in which they are made."""

  num_frames: int
  windows: tuple[Window, ...]
  given: tuple[int, ...] = ()  # positions that exist at the start
  low: tuple[int, ...] = ()  # positions given at low resolution

  @property
  def block_starts(self) -> tuple[int, ...]:
    """Where a window's new frames follow frames that another made, at the highest frame rate: the possible seams."""
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
  """The first `given` frames continued to `num_frames`, each window after the first seeing `overlap` frames.

  VDM section 4.3.3. With 0 < given < block the first window begins with the given frames and sees all of them: this is
  video prediction. The last window is moved back to end with the video, and so may see more.

  Raises ValueError if there is nothing to make, or unless 1 <= overlap < block.
  """
  if given >= num_frames:
    raise ValueError(
      f'num_frames={num_frames}, but {given} frames are given: ask for more frames in all, or give fewer.'
    )
  return Plan(num_frames, _fill(range(given), num_frames, block, overlap), given=tuple(range(given)))


def interpolation(num_given: int, factor: int, block: int, *, overlap: int = 1, num_frames: int | None = None) -> Plan:
  """`factor - 1` frames between each two given ones (VDM section 3.1).

  The n given frames span (n - 1) factor + 1 frames, which is `num_frames` by default; frames past the last given one
  are extrapolated. A window keeps what it makes up to its last given frame, unless it has the video's last one: so
  every frame between two given ones is made by a window that sees both.

  Raises ValueError unless 2 <= factor < block, for less than 2 given frames, for more frames than `factor` for each
  given one, or unless 1 <= overlap <= block - factor.
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
  """Low-resolution frames made larger and, with a factor above 1, `factor` times as frequent (VDM section 3.1, Fig. 2).

  Block-autoregressive: a window sees its frames of low resolution and `overlap` frames that the one before made. The
  low-resolution frames span (n - 1) factor + 1 frames, which is `num_frames` by default; frames past that are
  extrapolated: of Fig. 2's 64 frames, made from 16 at a frame skip of 4, the last three.

  Raises ValueError unless 1 <= factor < block, for more frames than `factor` for each low-resolution one, or unless
  1 <= overlap <= block - factor.
  """
  if not 1 <= factor < block:
    raise ValueError(
      f'a temporal factor of {factor} cannot be made with windows of {block} frames: choose 1 to {block - 1}.'
    )
  low, num_frames = _spread(num_low, factor, num_frames)
  return Plan(num_frames, _fill((), num_frames, block, overlap, low, factor), low=low)


def hierarchy(num_frames: int, frame_rates: Sequence[float], block: int, *, overlap: int = 1) -> Plan:
  """A video at the lowest of the frame rates, extended block by block, then filled in at each higher one (Snap C.5).

  Every level sees all frames that exist. Frames of the video past the last one of the lowest rate are extrapolated.
  Raises ValueError unless the rates increase and each divides the next, as 2, 8, 24, with a quotient below `block`, or
  unless 1 <= overlap <= block - quotient.
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
  """Windows from left to right until nothing is missing; known frames are `factor` apart."""
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
  span = (count - 1) * factor + 1
  num_frames = span if num_frames is None else num_frames
  if not span <= num_frames <= count * factor:
    raise ValueError(
      f'num_frames={num_frames}, but {count} frames at a factor of {factor} span {span}, and at most {factor - 1} more '
      f'are extrapolated: choose {span} to {count * factor}.'
    )
  return tuple(range(0, span, factor)), num_frames


def _ranges(window: Window, which: Sequence[bool]) -> str:
  """The chosen frames of a window, such as `0-7, 12`; runs are of the window's own stride."""
  runs: list[list[int]] = []
  for frame, chosen in zip(window.frames, which, strict=True):
    if chosen and runs and frame - runs[-1][-1] == window.stride:
      runs[-1].append(frame)
    elif chosen:
      runs.append([frame])
  return ', '.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)
