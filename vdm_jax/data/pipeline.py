"""From a source to batches, on Grain.

The stream is one global sequence of elements, each a pure function of the seed and its index. Step k takes
elements k * batch_size to (k + 1) * batch_size - 1, of which a host makes the rows that its devices hold. So a
run resumes by its step number alone, on any hosts and workers.
"""

from __future__ import annotations

import fractions
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from vdm_jax.data import mixture
from vdm_jax.data.delivery import deliver
from vdm_jax.data.mixture import Mixture
from vdm_jax.data.sources import catalog
from vdm_jax.types import Batch, Conditioning
from vdm_jax.video import transforms

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
ENDLESS = 2**62  # elements of a stream


class _Element(NamedTuple):
  """A clip and its appended images."""

  frames: np.ndarray  # uint8 [t+n-1 h w c]
  captions: tuple[str, ...]  # n
  labels: tuple[int, ...]  # n, empty if clips have none
  frame_interval: float  # seconds; 0 for a still
  resolution: tuple[int, int]  # of the clip, before any resizing


def build(
  config: Any,
  encode: Encode | None,
  *,
  seed: int,
  split: str = 'train',
  start: int = 0,
  rows: Sequence[int] | None = None,
  quarantine: str | Path | None = None,
) -> Iterator[Batch]:
  """Endless batches of this host, from step `start` on: of each global batch its `rows`, increasing; None: all.

  `config` is the section `data`; `encode` turns captions into (tokens [n l] or [n l c], mask [n l]), and is
  None exactly if data.text is 'none'. With b rows (all: batch_size) and n = 1 + num_images, x is float32
  [b t+n-1 h w c] in [-1, 1]; its last n - 1 frames are each a random frame of another clip of the same data set, or of
  `images` where these are given (joint training, VDM section 3.2). text [b n l] or [b n l c], text_mask bool [b n l]
  and label int32 [b n] belong to the video and to each image. With neither text nor labels, drop bool [b n] is False.
  frame_interval float32 [b] in seconds and resolution float32 [b 2], the original height and width in pixels, belong to
  the video alone.

  A share `image_rate` of the videos, evenly spread over the stream, are stills: an image as a video of infinite
  frame rate, one random frame of the clip throughout with a frame interval of 0 (Snap Video, section 3.3). Where
  `images` are given, the stills are those, each once in its epoch. With num_frames=1 the frame interval is 0 as well.

  The train stream is shuffled anew in every epoch; the test stream keeps the order of the source and is never
  flipped. Each data set of a mixture is shuffled and repeated on its own, and has its share of every part of the
  stream. Raises ValueError on settings that do not fit, and what the source raises, before the first batch.

  Clips that cannot be used are replaced by others and listed in `quarantine.jsonl` of the folder `quarantine`. The
  iterator raises TooManyBadClips with the list when they are more than the share `max_bad_share` of all.
  """
  if start < 0:
    raise ValueError(f'start={start}, but the first step is 0.')
  batches = _dataset(config, encode, seed, split, rows, quarantine)
  return deliver(batches, start, config.num_workers)


def held_out(
  config: Any,
  encode: Encode | None,
  *,
  seed: int,
  num_batches: int,
  rows: Sequence[int] | None = None,
  quarantine: str | Path | None = None,
) -> list[Batch]:
  """The first `num_batches` batches of the test split, as `build` makes them: the same ones on every call."""
  batches = _dataset(config, encode, seed, 'test', rows, quarantine)
  return [batches[k] for k in range(num_batches)]


def trained_on(config: Any, *, seed: int, count: int) -> list[int]:
  """The numbers of the first `count` clips that `build` takes for videos of the train split, in its order."""
  order = _order(catalog.build(config, 'train', seed), seed, 'train')
  return [int(order[position]) for position in range(count)]


def check(config: Any, *, seed: int) -> None:
  """Raises what `build` would raise, of either split, before any work: in a second or a few."""
  for split in ('train', 'test'):
    encode = None if config.text == 'none' else _no_text
    _dataset(config, encode, seed, split, None, None)


def _no_text(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  return np.zeros((len(captions), 1), np.int32), np.zeros((len(captions), 1), bool)


def _dataset(
  config, encode, seed: int, split: str, rows: Sequence[int] | None, quarantine: str | Path | None
) -> grain.MapDataset:
  """Batches of one host by random access: element k is step k."""
  _check(config, encode, rows)
  source = catalog.build(config, split, seed, quarantine)
  images = catalog.build_images(config, split, seed, quarantine)
  if config.labels and mixture.agreed_classes([source, *filter(None, [images])]) is None:
    raise ValueError(
      f'data.labels=True, but the clips of data.name={config.name!r} with these settings have no labels; '
      'set it to False.'
    )
  read = functools.partial(
    _read,
    source=source,
    images=images,
    size=(config.num_frames, config.height - 2 * config.pad_rows, config.width, config.channels),
    frame_skips=catalog.frame_skips(config),
    num_images=config.num_images,
    pad_rows=config.pad_rows,
    flip=config.flip and split == 'train',
  )
  read(0, np.random.default_rng(seed))  # so that bad data fails here and not in a thread
  clips = _order(source, seed, split)
  if config.image_rate:  # not always: a stage more would change the seed that Grain gives to random_map
    rate = fractions.Fraction(config.image_rate).limit_denominator(10**6)  # 3/10, which 0.3 stands for
    if images is None:
      clips = clips.map_with_index(functools.partial(_mark_still, rate=rate))
    else:
      weights = mixture.whole([1 - rate, rate])
      clips = _take_turns([clips, _order(images, _derive(seed, len(weights)), split)], weights, seed)
      clips = clips.map(_mark_image)
    read = functools.partial(_read_marked, read=read)
  elements = clips.random_map(read)
  if rows is not None:
    elements = _Rows(elements, config.batch_size, rows)
  collate = functools.partial(_collate, encode=encode, labels=config.labels)
  return elements.batch(config.batch_size if rows is None else len(rows), drop_remainder=True, batch_fn=collate)


def _order(source: catalog.Source, seed: int, split: str) -> grain.MapDataset:
  """The endless order of the clips of a source, as their numbers."""
  if isinstance(source, Mixture):
    parts = [_order(part, _derive(seed, which), split) for which, part in enumerate(source.parts)]
    return _take_turns(parts, source.weights, seed).map(functools.partial(_number, source=source))
  # Not shuffle(seed): there, epoch e of seed s is epoch 0 of seed s + e.
  clips = grain.MapDataset.range(len(source)).seed(seed)
  if split == 'train':
    clips = clips.shuffle()
  return clips.repeat()


def _take_turns(orders: Sequence[grain.MapDataset], weights: Sequence[int], seed: int) -> grain.MapDataset:
  """Elements (which, element) of several endless orders, by their weights."""
  return grain.MapDataset.range(ENDLESS).seed(seed).map(functools.partial(_take, orders=orders, weights=weights))


def _take(position: int, *, orders: Sequence[grain.MapDataset], weights: Sequence[int]) -> tuple[int, int]:
  which, number = mixture.choose(position, weights)
  return which, int(orders[which][number])


def _number(taken: tuple[int, int], *, source: Mixture) -> int:
  return source.clip(*taken)


def _derive(seed: int, number: int) -> int:
  """A seed of its own for each of several streams."""
  return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


class _Rows(grain.MapDataset):
  """Of every `batch_size` elements in a row those at `rows`."""

  def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int]):
    super().__init__(parent)
    self._batch_size, self._rows = batch_size, tuple(rows)

  def __len__(self) -> int:
    return len(self.parents[0]) // self._batch_size * len(self._rows)

  def __getitem__(self, place: int) -> _Element:
    step, which = divmod(place, len(self._rows))
    return self.parents[0][step * self._batch_size + self._rows[which]]


def _check(config, encode: Encode | None, rows: Sequence[int] | None) -> None:
  for name, least in {
    'batch_size': 1,
    'num_frames': 1,
    'num_images': 0,
    'pad_rows': 0,
    'num_workers': 0,
  }.items():
    if config[name] < least:
      raise ValueError(f'data.{name}={config[name]}, but it must be {least} or more.')
  if not 0 <= config.image_rate <= 1:
    raise ValueError(f'data.image_rate={config.image_rate}, but it must be a share, 0 to 1.')
  if config.height <= 2 * config.pad_rows:
    raise ValueError(
      f'data.pad_rows={config.pad_rows} at the top and at the bottom leaves none of data.height={config.height} to '
      'the video; lower it, or raise the height.'
    )
  if config.channels not in (1, 3):
    raise ValueError(f'data.channels={config.channels}, but it must be 1 (grey) or 3 (RGB).')
  if rows is not None and (not len(rows) or list(rows) != sorted({*rows} & {*range(config.batch_size)})):
    raise ValueError(
      f'rows={list(rows)} are not rows of a batch of data.batch_size={config.batch_size} in increasing order: give '
      f'one or more of 0 to {config.batch_size - 1}, each once.'
    )
  if (config.text == 'none') != (encode is None):
    given = 'no text function' if encode is None else 'a text function'
    raise ValueError(f'data.text={config.text!r}, but {given} is given; the two must agree.')


def _mark_still(position: int, index: int, *, rate: fractions.Fraction) -> tuple[int, bool]:
  """Makes stills of `rate.numerator` in every `rate.denominator` elements of the stream.

  The pattern moves as that of a mixture does, for the same reason.
  """
  period, place = divmod(position, rate.denominator)
  place = (place + mixture.beginning(period, rate.denominator)) % rate.denominator
  return index, place * rate // 1 < (place + 1) * rate // 1


def _mark_image(taken: tuple[int, int]) -> tuple[int, bool]:
  """What was taken from the videos or, as a still, from the images."""
  which, index = taken
  return index, bool(which)


def _read_marked(marked: tuple[int, bool], rng: np.random.Generator, *, read: Callable[..., _Element]) -> _Element:
  index, still = marked
  return read(index, rng, still=still)


def _read(
  index: int,
  rng: np.random.Generator,
  *,
  source: catalog.Source,
  images: Mixture | None,
  size: tuple[int, int, int, int],
  frame_skips: tuple[int, int],
  num_images: int,
  pad_rows: int,
  flip: bool,
  still: bool = False,
) -> _Element:
  num_frames, height, width, channels = size
  least, most = frame_skips
  skip = int(rng.integers(least, most + 1)) if most > least else least  # a draw only where there is a choice
  first = images if still and images is not None else source
  clips = [first.read(index, rng, 1 if still else num_frames, skip)]
  chosen = _others(index, rng, num_images, source) if images is None else [images.draw(rng) for _ in range(num_images)]
  clips += [(source if images is None else images).read(other, rng, 1) for other in chosen]
  videos = []
  for clip in clips:
    video = transforms.resize_and_crop(clip.video, height, width)
    video = transforms.random_flip(video, rng) if flip else video
    videos.append(transforms.to_channels(video, channels))
  if still:
    videos[0] = videos[0].repeat(num_frames, axis=0)
  return _Element(
    transforms.pad_rows(np.concatenate(videos), pad_rows),
    tuple(clip.caption for clip in clips),
    tuple(clip.label for clip in clips if clip.label is not None),
    1 / clips[0].frame_rate if len(clips[0].video) > 1 else 0.0,
    clips[0].resolution,
  )


def _others(index: int, rng: np.random.Generator, count: int, source: catalog.Source) -> list[int]:
  """Random clips beside clip `index`, of its part of a mixture: so each part has its share of the images as well."""
  own = source.part_of(index)[1] if isinstance(source, Mixture) else range(len(source))
  others = max(1, len(own) - 1)  # a lone clip has to be its own image
  return [own[(own.index(index) + 1 + int(offset)) % len(own)] for offset in rng.integers(others, size=count)]


def _collate(elements: Sequence[_Element], *, encode: Encode | None, labels: bool) -> Batch:
  shape = (len(elements), len(elements[0].captions))  # [b n]
  cond = Conditioning(
    frame_interval=np.array([element.frame_interval for element in elements], np.float32),
    resolution=np.array([element.resolution for element in elements], np.float32),
  )
  if encode is not None:
    tokens, mask = encode([caption for element in elements for caption in element.captions])
    cond = cond._replace(text=tokens.reshape(*shape, *tokens.shape[1:]), text_mask=mask.reshape(*shape, -1))
  if labels:
    cond = cond._replace(label=np.array([element.labels for element in elements], np.int32))
  if encode is None and not labels:
    cond = cond._replace(drop=np.zeros(shape, bool))
  return Batch(transforms.to_float(np.stack([element.frames for element in elements])), cond)
