"""Inspection of a data set: its contents, and whether training can start."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np

from vdm_jax.data.normalization import Statistics, check_frames, of_range
from vdm_jax.data.quarantine import Quarantine
from vdm_jax.data.sources.catalog import locate, open_stored
from vdm_jax.data.sources.contract import PROVIDED
from vdm_jax.data.sources.stored_clips import StoredClips, skip_in_clip_frames
from vdm_jax.inputs.caption_lengths import cut_report
from vdm_jax.inputs.captions import variants, vocabulary
from vdm_jax.inputs.captions import words as caption_words
from vdm_jax.runtime import progress
from vdm_jax.video import frame_index, transforms
from vdm_jax.video.contact_sheets import contact_sheet
from vdm_jax.video.deinterlacing import is_combed
from vdm_jax.video.reading import VideoInfo
from vdm_jax.video.timed_windows import TimedWindows
from vdm_jax.video.transforms import to_uint8

FRAMES_AT_ONCE = 64
COMBED = 'not marked as interlaced, but looking so'
# What is unusual about pictures, and what is made of it. `ffmpeg` is the command line of FFmpeg.
ADVICE = {
  frame_index.SEVERAL_STREAMS: 'the one that a player shows is read: the default one, then the largest',
  frame_index.VARIABLE_RATE: 'set data.target_frame_rate, which picks frames by their times',
  frame_index.INTERLACED: 'deinterlaced while reading (bwdif)',
  COMBED: 'read with combs; deinterlace with `ffmpeg -i IN -vf bwdif=deint=all OUT.mp4`',
  frame_index.TRANSPARENT: 'read on a white background',
  frame_index.PIXEL_ASPECT: 'read at the width that is shown',
  frame_index.CROPPED: 'only what is shown is read',
  frame_index.ROTATED: 'read as stored, turned by the nearest multiple of 90 degrees',
  **dict.fromkeys(frame_index.HDR, 'read without tone mapping, so colors are dull; tone map with FFmpeg first'),
}
WATCHED = 8  # frames at the start of a clip in which combs are looked for

BINS = 8
BAR = 40  # characters
SHOWN = 20  # unusable clips that are listed
SHEET_CLIPS, SHEET_FRAMES, SHEET_HEIGHT = 16, 8, 64


@dataclasses.dataclass
class Inspection:
  """The contents of a data set; `problem` is the reason why training cannot start, None if it can."""

  name: str  # data.name
  path: str
  num_frames: int
  frame_skip: int
  target_frame_rate: float = 0.0  # 0: that of the clips
  splits: Counter = dataclasses.field(default_factory=Counter)
  infos: list[VideoInfo] = dataclasses.field(default_factory=list)  # of the clips that can be opened
  captions: list[str] = dataclasses.field(default_factory=list)
  origins: Counter = dataclasses.field(default_factory=Counter)  # of the captions, if the source knows them
  labels: Counter = dataclasses.field(default_factory=Counter)
  notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # names of the clips with unusual pictures
  short: list[str] = dataclasses.field(default_factory=list)  # reasons
  corrupt: list[str] = dataclasses.field(default_factory=list)
  windows: Counter = dataclasses.field(default_factory=Counter)  # by split
  usable: list[int] = dataclasses.field(default_factory=list)
  decoded: bool = True
  text_length: int = 32
  remarks: Sequence[str] = ()
  statistics: Statistics | None = None  # of the training clips, if they are not pictures
  problem: str | None = None

  def report(self) -> str:
    """Return the contents as text; only the problem if the clips could not be opened."""
    if not self.splits:
      return self._conclusion()
    total = sum(self.splits.values())
    how = 'opened, first and last window decoded' if self.decoded else 'only opened'
    lines = [
      f'data.name={self.name} data.path={self.path}',
      f'clips: {total} ({self.splits["train"]} train, {self.splits["test"]} test), {len(self.usable)} usable, '
      f'{len(self.short)} short, {len(self.corrupt)} corrupt ({how})',
      *(f'  {reason}' for reason in [*self.short, *self.corrupt][:SHOWN]),
      *_histogram('frames per clip', [info.num_frames for info in self.infos]),
      *_histogram('frames per second, 0 if unknown', [info.frame_rate for info in self.infos]),
      *_histogram('height x width', ['x'.join(map(str, info.resolution)) for info in self.infos]),
      *self._captions(),
      *(f'note: {remark}' for remark in self.remarks),
      f'labels: {len(self.labels)} classes, {_range(self.labels.values())} clips each'
      if self.labels
      else 'labels: none',
      *(self.statistics.lines() if self.statistics else ()),
      *(f'{note}: {len(names)} clips, such as {names[0]}; {ADVICE[note]}' for note, names in self._notes()),
      f'windows of {self.num_frames} frames with a skip of {self.frame_skip} ({self._span()}): '
      f'{self.windows["train"]:,} train, {self.windows["test"]:,} test',
      self._conclusion(),
    ]
    hidden = len(self.short) + len(self.corrupt) - SHOWN
    if hidden > 0:
      lines.insert(2 + SHOWN, f'  and {hidden} more')
    return '\n'.join(lines)

  def _conclusion(self) -> str:
    if self.problem is not None:
      return f'training cannot start: {self.problem}'
    return 'training can start' if self.splits['test'] else 'training can start, without a held-out loss'

  def _notes(self) -> list[tuple[str, list[str]]]:
    return [(note, self.notes[note]) for note in ADVICE if note in self.notes]

  def _span(self) -> str:
    if self.target_frame_rate:
      return f'at {self.target_frame_rate:g} frames per second'
    return f'{transforms.window_span(self.num_frames, self.frame_skip)} frames'

  def _captions(self) -> list[str]:
    distinct = set(filter(None, self.captions))
    words = [len(caption_words(caption)) for caption in self.captions if caption]
    if not words:
      return ['captions: none']
    return [
      f'captions: {len(words)} of {len(self.captions)} clips have one, {len(distinct)} distinct captions, '
      f'{_range(words)} words each, {np.mean(words):.1f} on average, {len(vocabulary(distinct))} distinct words',
      *(f'  {count} {_by(origin)}' for origin, count in self.origins.items() if set(self.origins) != {PROVIDED}),
      *([cut] if (cut := cut_report(words, self.text_length, 'words')) else []),
      *_variants(distinct),
    ]


def inspect(
  path: str,
  *,
  follow_links: bool = False,
  text_length: int = 32,
  num_frames: int = 16,
  frame_skip: int = 1,
  frame_rate: float = 0.0,
  target_frame_rate: float = 0.0,
  max_bad_share: float = 0.05,
  decode: bool = True,
) -> tuple[Inspection, np.ndarray | None]:
  """Open every clip of a data set.

  Args:
    path: as for `catalog.open_stored`.
    follow_links: `data.follow_links`.
    text_length: `data.text_length`; longer captions are counted.
    num_frames: `data.num_frames` of the planned training.
    frame_skip: `data.frame_skip`, or the largest one.
    frame_rate: frames per second of clips without a frame rate.
    target_frame_rate: `data.target_frame_rate`.
    max_bad_share: fraction of clips that may be unusable.
    decode: decode the first and the last window of each clip; without it, files are only opened.

  Returns:
    The contents, and a contact sheet, uint8 `[h w 3]`, None if no clip is usable.

  Raises:
    ValueError: `path` is KIND:PATH with an unknown kind.
  """
  name, located = locate(path)
  found = Inspection(name, located, num_frames, frame_skip, target_frame_rate, decoded=decode, text_length=text_length)
  try:
    # One frame, so that data without a frame rate can be inspected too.
    opening = {'num_frames': 1, 'train_on_all': True, 'follow_links': follow_links}
    _, clips = open_stored(path, 'train', frame_rate=frame_rate, **opening)
  except (ValueError, OSError) as error:
    found.problem = str(error)
    return found, None
  found.remarks = clips.remarks
  quarantine = Quarantine(located, clips.total, 1.0)
  with progress.phase('opening clips'):
    for index in range(len(clips)):
      progress.note(f'clip {index + 1} of {len(clips)}')
      _inspect_clip(clips, index, found, quarantine)
  found.problem = _problem(found, quarantine, max_bad_share)
  if not found.usable or not decode or _is_pictures(clips, found.usable[0]):
    return found, _sheet(clips, found.usable, lambda video: video)
  try:
    found.statistics = _measure(clips, found.usable)
    normalize = of_range(found.statistics)
  except (ValueError, OSError) as error:
    found.problem = found.problem or str(error)
    return found, None
  return found, _sheet(clips, found.usable, lambda video: to_uint8(normalize.pictures(normalize.apply(video))))


def _is_pictures(clips: StoredClips, index: int) -> bool:
  try:
    video = clips.window(index, 0, 1).video
  except (ValueError, OSError):
    return True
  return video.dtype == np.uint8 and video.shape[-1] in (1, 3)


def _measure(clips: StoredClips, usable: Sequence[int]) -> Statistics:
  """Return the statistics of all frames of the usable clips of the train split."""
  found = Statistics()
  for index in usable:
    if clips.split_of(index) == 'train':
      length = clips.info(index).num_frames
      for start in range(0, length, FRAMES_AT_ONCE):
        video = clips.window(index, start, min(FRAMES_AT_ONCE, length - start)).video
        check_frames(video, f'{clips.path}/{clips.names[index]}', 'missing')
        found.add(video)
  return found


def _inspect_clip(clips: StoredClips, index: int, found: Inspection, quarantine: Quarantine) -> None:
  split = clips.split_of(index)
  found.splits[split] += 1
  try:
    info = clips.info(index)
    found.captions.append(clips.caption(index))
    if (origin := clips.caption_origin(index)) is not None:
      found.origins[origin] += 1
    label = clips.label(index)
    if label is not None:
      found.labels[label] += 1
    found.infos.append(info)
    starts, length, reason = _windows(clips, index, info, found)
    if reason:
      reason = f'{clips.path}/{clips.names[index]}: {reason}'
      found.short.append(reason)
      quarantine.add(clips.names[index], ValueError(reason))
      return
    if found.decoded:
      _decode(clips, index, [(int(start), length(int(start))) for start in sorted({starts[0], starts[-1]})], found)
    _note(found, clips.names[index], clips.notes(index))
  except (ValueError, OSError) as error:
    found.corrupt.append(str(error))
    quarantine.add(clips.names[index], error)
    return
  found.windows[split] += len(starts)
  found.usable.append(index)


def _windows(
  clips: StoredClips, index: int, info: VideoInfo, found: Inspection
) -> tuple[Sequence[int], Callable[[int], int], str]:
  """Return the first frames of all windows of a clip, their length from each, and why there are none."""
  times = clips.times(index)
  if found.target_frame_rate and times is not None:
    timed = TimedWindows(times, found.num_frames, found.frame_skip / found.target_frame_rate)
    starts = timed.starts()
    reason = '' if len(starts) else f'has no {timed.description}'
    return starts, lambda start: timed.at(start)[-1] - start + 1, reason
  skip = skip_in_clip_frames(found.num_frames, found.frame_skip, info.frame_rate, found.target_frame_rate)
  if skip is None:
    wanted = found.target_frame_rate / found.frame_skip
    return (), len, f'{info.frame_rate:g} frames per second, too few for {wanted:g}'
  span = transforms.window_span(found.num_frames, skip)
  reason = f'{info.num_frames} frames, but {span} are needed' if info.num_frames < span else ''
  return range(info.num_frames - span + 1), lambda start: span, reason


def _decode(clips: StoredClips, index: int, windows: Sequence[tuple[int, int]], found: Inspection) -> None:
  """Decode windows, each of consecutive frames from a start, and look for combs in them."""
  combed = False
  for start, length in windows:
    room = clips.info(index).num_frames - start
    video = clips.window(index, start, min(max(length, WATCHED), room)).video
    combed = combed or (video.dtype == np.uint8 and is_combed(video))
  found.infos[-1] = found.infos[-1]._replace(resolution=video.shape[1:3])
  if combed and frame_index.INTERLACED not in clips.notes(index):
    _note(found, clips.names[index], [COMBED])


def _note(found: Inspection, name: str, notes: Sequence[str]) -> None:
  for note in notes:
    found.notes.setdefault(note, []).append(name)


def _problem(found: Inspection, quarantine: Quarantine, max_bad_share: float) -> str | None:
  unknown = [info for info in found.infos if not info.frame_rate]
  if unknown and found.num_frames > 1:
    return f'{len(unknown)} clips have no frame rate; pass --frame_rate, and set data.frame_rate in training.'
  for split in ('train', 'test'):
    if not found.windows[split] and (split == 'train' or found.splits[split]):
      return f'no clip of the {split} split can be used; add usable clips.'
  bad = len(quarantine.reasons)
  if bad > max_bad_share * sum(found.splits.values()):
    return (
      f'{bad} of {sum(found.splits.values())} clips cannot be used, more than max_bad_share={max_bad_share:g} allows; '
      'repair or remove them, or raise data.max_bad_share.'
    )
  return None


def _sheet(clips: StoredClips, usable: Sequence[int], shown: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
  """Return a contact sheet of usable clips, evenly spread over the data set."""
  if not usable:
    return None
  chosen = [usable[i] for i in np.linspace(0, len(usable) - 1, min(len(usable), SHEET_CLIPS)).astype(int)]
  videos, captions = [], []
  for index in chosen:
    length = clips.info(index).num_frames
    try:
      frames = [clips.window(index, int(i), 1).video for i in np.linspace(0, length - 1, min(length, SHEET_FRAMES))]
    except (ValueError, OSError):  # if clips were only opened
      continue
    video = shown(np.concatenate(frames))
    width = max(1, round(SHEET_HEIGHT * video.shape[2] / video.shape[1]))
    large = video.shape[1] > SHEET_HEIGHT
    videos.append(transforms.resize_and_crop(video, SHEET_HEIGHT, width) if large else video)
    captions.append(clips.caption(index) or clips.names[index])
  if not videos:
    return None
  return contact_sheet(videos, captions, frame_size=SHEET_HEIGHT, max_frames=SHEET_FRAMES)


def _range(values: Collection[int]) -> str:
  """Return '2 to 5', or '5' if all values are equal."""
  least, most = min(values), max(values)
  return f'{least}' if least == most else f'{least} to {most}'


def _variants(captions: Collection[str]) -> list[str]:
  """Return a line on words that captions write in several ways, which are one word of the vocabulary."""
  found = variants(captions)
  if not found:
    return []
  shown = [f'{word} ({" ".join(forms)})' for word, forms in list(found.items())[:BINS]]
  return [f'words written in several ways: {len(found)}, each one word of the vocabulary: {", ".join(shown)}']


def _by(origin: str) -> str:
  return 'provided with the clips' if origin == PROVIDED else f'by {origin}'


def _histogram(title: str, values: Sequence) -> list[str]:
  """Return a line for each value, or for each range if there are many numbers."""
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
