"""Batches of clips, on Grain.

The stream is one global sequence of elements, each a pure function of the seed and its index. Step k takes elements
k * batch_size to (k + 1) * batch_size - 1, of which a host makes the rows that its devices hold. So a run resumes from
its step number alone, on any number of hosts and workers; one whose batch size changes shifts them all by an offset.
"""

from __future__ import annotations

import contextlib
import fractions
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from vdm_jax.data import mixture, normalization
from vdm_jax.data.delivery import deliver
from vdm_jax.data.mixture import Mixture
from vdm_jax.data.normalization import Normalization
from vdm_jax.data.sources import catalog
from vdm_jax.data.sources.contract import Clips, EmptySplit
from vdm_jax.names import choose
from vdm_jax.types import Batch, Conditioning
from vdm_jax.video import transforms

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
ENDLESS = 2**62  # elements of a stream


class _Element(NamedTuple):
  """A clip and its appended images."""

  frames: np.ndarray  # [t+n-1 h w c] in the units of the data
  captions: tuple[str, ...]  # n
  labels: tuple[int, ...]  # n, empty if clips have none
  frame_interval: float  # seconds; 0 for an image
  resolution: tuple[int, int]  # of the clip, before any resizing


def build(
  config: Any,
  encode: Encode | None,
  *,
  seed: int,
  split: str = 'train',
  start: int = 0,
  offset: int = 0,
  rows: Sequence[int] | None = None,
  quarantine: str | Path | None = None,
) -> Iterator[Batch]:
  """Return the endless batches of this host.

  With b rows and n = 1 + num_images, x is float32 `[b t+n-1 h w c]` in [-1, 1]. Its last n - 1 frames are each a random
  frame of another clip of the same data set, or of `images` if these are configured (joint training, VDM 4.3.1).
  text `[b n l]` or `[b n l c]`, text_mask bool `[b n l]` and label int32 `[b n]` describe the video and each appended
  image. With neither text nor labels, drop bool `[b n]` is False. frame_interval float32 `[b]` in seconds and
  resolution float32 `[b 2]`, the original height and width in pixels, describe the video alone.

  A fraction `image_rate` of the videos, evenly spread over the stream, are images, treated as videos of infinite frame
  rate: one random frame of a clip, repeated, with a frame interval of 0 (Snap Video, section 3.3). If `images` are
  configured, they are taken from there, each once in an epoch. With num_frames=1 the frame interval is 0 as well.

  The train stream is shuffled again in every epoch, of which a batch holds several if there are few clips; the test
  stream keeps the order of the source and is never flipped. Each data set of a mixture is shuffled and repeated
  separately, with its share of every part of the stream. Clips that cannot be used are replaced by others.

  Args:
    config: section `data` of a configuration.
    encode: turns captions into (tokens `[n l]` or embeddings `[n l c]`, mask `[n l]`); None if and only if data.text is
      'none'.
    seed: of the order and of everything random about the clips.
    split: 'train' or 'test'.
    start: first step.
    offset: added to the number of every element, for runs whose batch size has changed; with the first step's it must
      not be negative.
    rows: rows of each global batch that this host makes, increasing; None: all.
    quarantine: folder in which unusable clips are listed in `quarantine.jsonl`; None: nowhere.

  Raises:
    ValueError: settings do not fit together, before the first batch; and what the source raises.
    TooManyBadClips: more clips than the fraction `max_bad_share` are unusable, here or from the iterator.
  """
  if start < 0:
    raise ValueError(f'start={start} is negative; the first step is 0.')
  if start * config.batch_size + offset < 0:
    raise ValueError(f'offset={offset} leads before the first element of the stream: give a later start.')
  batches = _dataset(config, encode, seed=seed, split=split, rows=rows, quarantine=quarantine, offset=offset)
  return deliver(batches, start, config.num_workers)


def held_out(
  config: Any,
  encode: Encode | None,
  *,
  seed: int,
  num_batches: int,
  split: str = 'test',
  rows: Sequence[int] | None = None,
  quarantine: str | Path | None = None,
) -> list[Batch]:
  """Return the first `num_batches` batches of the test split, as `build` makes them; the same ones on every call.

  Raises as `build` does, and EmptySplit if no clip is held out.
  """
  batches = _dataset(config, encode, seed=seed, split=split, rows=rows, quarantine=quarantine)
  return [batches[k] for k in range(num_batches)]


def trained_on(config: Any, *, seed: int, count: int) -> list[int]:
  """Return the numbers of the first `count` clips that `build` trains on, in its order."""
  order = _order(catalog.build(config, 'train', seed), seed, 'train')
  return [int(order[position]) for position in range(count)]


def check(config: Any, *, seed: int) -> None:
  """Raise what `build` would raise for either split, within a few seconds. The test split may have no clips."""
  encode = None if config.text == 'none' else _no_text
  _dataset(config, encode, seed=seed, split='train')
  with contextlib.suppress(EmptySplit):
    _dataset(config, encode, seed=seed, split='test')


def _no_text(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  return np.zeros((len(captions), 1), np.int32), np.zeros((len(captions), 1), bool)


def _dataset(
  config: Any,
  encode: Encode | None,
  *,
  seed: int,
  split: str,
  rows: Sequence[int] | None = None,
  quarantine: str | Path | None = None,
  offset: int = 0,
) -> grain.MapDataset:
  """Return the batches of one host by random access: element k is step k."""
  _check(config, encode, rows)
  source = catalog.build(config, split, seed, quarantine)
  images = catalog.build_images(config, split, seed, quarantine)
  if config.labels and mixture.agreed_classes([source, *filter(None, [images])]) is None:
    raise ValueError(
      f'data.labels=True, but the clips of data.name={config.name!r} have no labels with these settings; '
      'set it to False.'
    )
  read = functools.partial(
    _read,
    source=source,
    images=images,
    size=(config.num_frames, config.height - 2 * config.pad_rows, config.width, config.channels),
    resize=choose('data.resize', config.resize, transforms.RESIZES),
    frame_skips=catalog.frame_skips(config),
    num_images=config.num_images,
    pad_rows=config.pad_rows,
    flip=config.flip and split == 'train',
  )
  read(0, np.random.default_rng(seed))  # so that bad data fail here and not in a thread
  clips = _order(source, seed, split)
  if config.image_rate:  # only then: one more stage would change the seed that Grain gives to random_map
    rate = fractions.Fraction(config.image_rate).limit_denominator(10**6)  # 0.3 means 3/10
    if images is None:
      clips = clips.map_with_index(functools.partial(_mark_images, rate=rate))
    else:
      weights = mixture.integer_weights([1 - rate, rate])
      clips = _take_turns([clips, _order(images, _derive(seed, len(weights)), split)], weights, seed)
      clips = clips.map(_mark_taken)
    read = functools.partial(_read_marked, read=read)
  elements = clips.random_map(read)
  if rows is not None or offset:
    elements = _Rows(elements, config.batch_size, range(config.batch_size) if rows is None else rows, offset)
  collate = functools.partial(
    _collate,
    encode=encode,
    labels=config.labels,
    normalize=normalization.of_config(config),
    missing=config.missing_values,
  )
  return elements.batch(config.batch_size if rows is None else len(rows), drop_remainder=True, batch_fn=collate)


def _order(source: Clips, seed: int, split: str) -> grain.MapDataset:
  """Return the numbers of the clips of a source in their endless order."""
  if isinstance(source, Mixture):
    parts = [_order(part, _derive(seed, which), split) for which, part in enumerate(source.parts)]
    return _take_turns(parts, source.weights, seed).map(functools.partial(_number, source=source))
  # Not shuffle(seed), with which epoch e of seed s equals epoch 0 of seed s + e.
  clips = grain.MapDataset.range(len(source)).seed(seed)
  if split == 'train':
    clips = clips.shuffle()
  return clips.repeat()


def _take_turns(orders: Sequence[grain.MapDataset], weights: Sequence[int], seed: int) -> grain.MapDataset:
  """Return the elements (which, element) of several endless orders, taken by their weights."""
  return grain.MapDataset.range(ENDLESS).seed(seed).map(functools.partial(_take, orders=orders, weights=weights))


def _take(position: int, *, orders: Sequence[grain.MapDataset], weights: Sequence[int]) -> tuple[int, int]:
  which, number = mixture.part_at(position, weights)
  return which, int(orders[which][number])


def _number(taken: tuple[int, int], *, source: Mixture) -> int:
  return source.clip(*taken)


def _derive(seed: int, number: int) -> int:
  """Derive a separate seed for one of several streams."""
  return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


class _Rows(grain.MapDataset):
  """The elements at `rows` of every `batch_size` consecutive elements, all `offset` further."""

  def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int], offset: int):
    super().__init__(parent)
    self._batch_size, self._rows, self._offset = batch_size, tuple(rows), offset

  def __len__(self) -> int:
    return len(self.parents[0]) // self._batch_size * len(self._rows)

  def __getitem__(self, place: int) -> _Element:
    step, which = divmod(place, len(self._rows))
    return self.parents[0][step * self._batch_size + self._rows[which] + self._offset]


def _check(config: Any, encode: Encode | None, rows: Sequence[int] | None) -> None:
  for name, least in {
    'batch_size': 1,
    'num_frames': 1,
    'num_images': 0,
    'pad_rows': 0,
    'num_workers': 0,
  }.items():
    if config[name] < least:
      raise ValueError(f'data.{name}={config[name]} must be {least} or more.')
  if not 0 <= config.image_rate <= 1:
    raise ValueError(f'data.image_rate={config.image_rate} is not a valid fraction; use 0 to 1.')
  if config.height <= 2 * config.pad_rows:
    raise ValueError(
      f'data.pad_rows={config.pad_rows} at the top and at the bottom leaves no rows of data.height={config.height} for '
      'the video; lower it, or raise the height.'
    )
  if config.missing_values and config.normalization == 'pixels':
    raise ValueError("data.missing_values=True has no effect with data.normalization='pixels'; set it to False.")
  normalization.of_config(config)
  if rows is not None and (not len(rows) or list(rows) != sorted({*rows} & {*range(config.batch_size)})):
    raise ValueError(
      f'rows={list(rows)} are not valid rows of a batch of data.batch_size={config.batch_size}; give one or more of 0 '
      f'to {config.batch_size - 1}, each once and in increasing order.'
    )
  if (config.text == 'none') != (encode is None):
    passed = 'no' if encode is None else 'a'
    raise ValueError(f"data.text={config.text!r}, but {passed} text function was passed; pass one unless it is 'none'.")


def _mark_images(position: int, index: int, *, rate: fractions.Fraction) -> tuple[int, bool]:
  """Return the element and whether it is an image: `rate.numerator` of every `rate.denominator` elements are.

  The pattern is offset from period to period like that of a mixture, for the same reason.
  """
  period, place = divmod(position, rate.denominator)
  place = (place + mixture.pattern_offset(period, rate.denominator)) % rate.denominator
  return index, place * rate // 1 < (place + 1) * rate // 1


def _mark_taken(taken: tuple[int, int]) -> tuple[int, bool]:
  """Return the element and whether it is an image, for elements taken from the videos (0) or from the images (1)."""
  which, index = taken
  return index, bool(which)


def _read_marked(marked: tuple[int, bool], rng: np.random.Generator, *, read: Callable[..., _Element]) -> _Element:
  index, is_image = marked
  return read(index, rng, is_image=is_image)


def _read(
  index: int,
  rng: np.random.Generator,
  *,
  source: Clips,
  images: Mixture | None,
  size: tuple[int, int, int, int],
  resize: Callable[[np.ndarray, int, int], np.ndarray],
  frame_skips: tuple[int, int],
  num_images: int,
  pad_rows: int,
  flip: bool,
  is_image: bool = False,
) -> _Element:
  num_frames, height, width, channels = size
  least, most = frame_skips
  skip = int(rng.integers(least, most + 1)) if most > least else least  # a draw only where there is a choice
  first = images if is_image and images is not None else source
  clips = [first.read(index, rng, 1 if is_image else num_frames, skip)]
  chosen = _others(index, rng, num_images, source) if images is None else [images.draw(rng) for _ in range(num_images)]
  clips += [(source if images is None else images).read(other, rng, 1) for other in chosen]
  videos = []
  for clip in clips:
    video = resize(clip.video, height, width)
    video = transforms.random_flip(video, rng) if flip else video
    videos.append(transforms.to_channels(video, channels))
  if is_image:
    videos[0] = videos[0].repeat(num_frames, axis=0)
  return _Element(
    transforms.pad_rows(np.concatenate(videos), pad_rows),
    tuple(clip.caption for clip in clips),
    tuple(clip.label for clip in clips if clip.label is not None),
    1 / clips[0].frame_rate if len(clips[0].video) > 1 else 0.0,
    clips[0].resolution,
  )


def _others(index: int, rng: np.random.Generator, count: int, source: Clips) -> list[int]:
  """Draw clips other than `index`, from its part of a mixture, so that each part has its share of the images too."""
  own = source.part_of(index)[1] if isinstance(source, Mixture) else range(len(source))
  others = max(1, len(own) - 1)  # a single clip provides its own images
  return [own[(own.index(index) + 1 + int(offset)) % len(own)] for offset in rng.integers(others, size=count)]


def _collate(
  elements: Sequence[_Element], *, encode: Encode | None, labels: bool, normalize: Normalization, missing: bool
) -> Batch:
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
  x = normalize.apply(np.stack([element.frames for element in elements]))
  if not missing:
    return Batch(x, cond)
  there = ~np.isnan(x)
  return Batch(np.where(there, x, np.float32(0)), cond, there.astype(np.float32))
