"""What is in a data set, whether it can be trained on, and why not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.quarantine import Quarantine
from vdm_jax.data.sources.catalog import open_stored
from vdm_jax.data.sources.folder import GIVEN
from vdm_jax.data.sources.stored_clips import Stored, own_skip
from vdm_jax.video import transforms
from vdm_jax.video.codecs import VideoInfo
from vdm_jax.video.contact_sheets import contact_sheet

BINS = 8
BAR = 40  # characters
SHOWN = 20  # bad clips that are listed
SHEET_CLIPS, SHEET_FRAMES, SHEET_HEIGHT = 16, 8, 64


@dataclasses.dataclass
class Inspection:
  """What was found; `problem` says why training could not start, None if it could."""

  name: str  # data.name
  path: str
  num_frames: int
  frame_skip: int
  target_frame_rate: float = 0.0  # 0: the clips' own
  splits: Counter = dataclasses.field(default_factory=Counter)
  infos: list[VideoInfo] = dataclasses.field(default_factory=list)  # of clips that can be opened
  captions: list[str] = dataclasses.field(default_factory=list)
  origins: Counter = dataclasses.field(default_factory=Counter)  # of the captions, where the source knows them
  labels: Counter = dataclasses.field(default_factory=Counter)
  short: list[str] = dataclasses.field(default_factory=list)  # reasons
  corrupt: list[str] = dataclasses.field(default_factory=list)
  windows: Counter = dataclasses.field(default_factory=Counter)  # by split
  usable: list[int] = dataclasses.field(default_factory=list)
  decoded: bool = True
  problem: str | None = None

  def report(self) -> str:
    """The whole of it as text."""
    total = sum(self.splits.values())
    how = 'opened, first and last window decoded' if self.decoded else 'opened only'
    lines = [
      f'data.name={self.name} data.path={self.path}',
      f'clips: {total} ({self.splits["train"]} train, {self.splits["test"]} test), {len(self.usable)} usable, '
      f'{len(self.short)} short, {len(self.corrupt)} corrupt ({how})',
      *(f'  {reason}' for reason in [*self.short, *self.corrupt][:SHOWN]),
      *_histogram('frames per clip', [info.num_frames for info in self.infos]),
      *_histogram('frames per second, 0 where not told', [info.frame_rate for info in self.infos]),
      *_histogram('height x width', ['x'.join(map(str, info.resolution)) for info in self.infos]),
      *self._captions(),
      f'labels: {len(self.labels)} classes, {min(self.labels.values())} to {max(self.labels.values())} clips each'
      if self.labels
      else 'labels: none',
      f'windows of {self.num_frames} frames with a skip of {self.frame_skip} ({self._span()}): '
      f'{self.windows["train"]:,} train, {self.windows["test"]:,} test',
      'training can start' if self.problem is None else f'training cannot start: {self.problem}',
    ]
    hidden = len(self.short) + len(self.corrupt) - SHOWN
    if hidden > 0:
      lines.insert(2 + SHOWN, f'  and {hidden} more')
    return '\n'.join(lines)

  def _span(self) -> str:
    if self.target_frame_rate:
      return f'at {self.target_frame_rate:g} frames per second'
    return f'{transforms.window_span(self.num_frames, self.frame_skip)} frames'

  def _captions(self) -> list[str]:
    words = [len(caption.split()) for caption in self.captions if caption]
    if not words:
      return ['captions: none']
    vocabulary = {word for caption in self.captions for word in caption.lower().split()}
    different = len(set(filter(None, self.captions)))
    return [
      f'captions: {len(words)} of {len(self.captions)} clips have one, {different} different ones, {min(words)} to '
      f'{max(words)} words each, {np.mean(words):.1f} on average, {len(vocabulary)} different words',
      *(f'  {count} by {origin}' for origin, count in self.origins.items() if set(self.origins) != {GIVEN}),
    ]


def inspect(
  path: str,
  *,
  num_frames: int = 16,
  frame_skip: int = 1,
  frame_rate: float = 0.0,
  target_frame_rate: float = 0.0,
  max_bad_share: float = 0.05,
  decode: bool = True,
) -> tuple[Inspection, np.ndarray | None]:
  """Looks at every clip of a data set; returns what it found and a contact sheet, None if no clip is usable.

  With `decode` the first and the last window of each clip are decoded, else files are only opened.
  """
  found = Inspection('unknown', path, num_frames, frame_skip, target_frame_rate, decoded=decode)
  try:
    # One frame, so that data which do not tell their frame rate can be looked at all the same.
    found.name, source = open_stored(path, 'train', num_frames=1, frame_rate=frame_rate, train_on_all=True)
  except (ValueError, OSError) as error:
    found.problem = str(error)
    return found, None
  quarantine = Quarantine(path, source.total, 1.0)
  for index in range(len(source)):
    _look(source, index, found, quarantine)
  found.problem = _problem(found, quarantine, max_bad_share)
  return found, _sheet(source, found.usable)


def _look(source: Stored, index: int, found: Inspection, quarantine: Quarantine) -> None:
  split = source.split_of(index)
  found.splits[split] += 1
  try:
    info = source.info(index)
    found.captions.append(source.caption(index))
    if (origin := getattr(source, 'origin', lambda _: None)(index)) is not None:
      found.origins[origin] += 1
    label = source.label(index)
    if label is not None:
      found.labels[label] += 1
    found.infos.append(info)
    skip = own_skip(found.num_frames, found.frame_skip, info.frame_rate, found.target_frame_rate)
    span = None if skip is None else transforms.window_span(found.num_frames, skip)
    if span is None or info.num_frames < span:
      few = f'{info.num_frames} frames, but {span} are needed'
      slow = f'{info.frame_rate:g} frames per second, too few for {found.target_frame_rate / found.frame_skip:g}'
      reason = f'{source.path}/{source.names[index]}: {slow if span is None else few}'
      found.short.append(reason)
      quarantine.add(source.names[index], ValueError(reason))
      return
    if found.decoded:
      for start in sorted({0, info.num_frames - span}):
        source.window(index, start, span)
  except (ValueError, OSError) as error:
    found.corrupt.append(str(error))
    quarantine.add(source.names[index], error)
    return
  found.windows[split] += info.num_frames - span + 1
  found.usable.append(index)


def _problem(found: Inspection, quarantine: Quarantine, max_bad_share: float) -> str | None:
  untold = [info for info in found.infos if not info.frame_rate]
  if untold and found.num_frames > 1:
    return f'{len(untold)} clips do not tell their frame rate; give --frame_rate, and set data.frame_rate in training.'
  for split in ('train', 'test'):
    if not found.windows[split]:
      return f'no clip of the {split} split can be used; add clips that can.'
  bad = len(quarantine.reasons)
  if bad > max_bad_share * sum(found.splits.values()):
    return (
      f'{bad} of {sum(found.splits.values())} clips cannot be used, more than max_bad_share={max_bad_share:g} allows; '
      'repair or remove them, or raise data.max_bad_share.'
    )
  return None


def _sheet(source: Stored, usable: Sequence[int]) -> np.ndarray | None:
  if not usable:
    return None
  chosen = [usable[i] for i in np.linspace(0, len(usable) - 1, min(len(usable), SHEET_CLIPS)).astype(int)]
  videos, captions = [], []
  for index in chosen:
    length = source.info(index).num_frames
    try:
      frames = [source.window(index, int(i), 1).video for i in np.linspace(0, length - 1, min(length, SHEET_FRAMES))]
    except (ValueError, OSError):  # where clips were opened only
      continue
    video = np.concatenate(frames)
    width = max(1, round(SHEET_HEIGHT * video.shape[2] / video.shape[1]))
    large = video.shape[1] > SHEET_HEIGHT
    videos.append(transforms.resize_and_crop(video, SHEET_HEIGHT, width) if large else video)
    captions.append(source.caption(index) or source.names[index])
  if not videos:
    return None
  return contact_sheet(videos, captions, frame_size=SHEET_HEIGHT, max_frames=SHEET_FRAMES)


def _histogram(title: str, values: Sequence) -> list[str]:
  """A line per value, or per range where there are many numbers."""
  counts = Counter(values)
  if not counts:
    return [f'{title}: none']
  if len(counts) <= BINS or isinstance(values[0], str):
    bars = [(str(round(value, 3) if isinstance(value, float) else value), count) for value, count in counts.items()]
    bars = (
      sorted(bars, key=lambda bar: -bar[1])[:BINS]
      if isinstance(values[0], str)
      else sorted(bars, key=lambda bar: float(bar[0]))
    )
  else:
    numbers, edges = np.histogram(values, BINS)
    bars = [(f'{low:.4g} to {high:.4g}', int(n)) for low, high, n in zip(edges, edges[1:], numbers, strict=False)]
  most = max(count for _, count in bars)
  return [f'{title}:', *(f'  {name:>20} {count:>8} {"#" * round(BAR * count / most)}'.rstrip() for name, count in bars)]
