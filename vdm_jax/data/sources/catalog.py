"""Kinds of data by name, the values of `data.name`, and how each is opened. A new kind is one entry of `KINDS`."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vdm_jax.data import mixture
from vdm_jax.data.mixture import Mixture
from vdm_jax.data.quarantine import Quarantine, Substituting
from vdm_jax.data.sources.archives.parquet import Parquet
from vdm_jax.data.sources.archives.webdataset import WebDataset
from vdm_jax.data.sources.array import Array
from vdm_jax.data.sources.contract import SPLITS, Clips, EmptySplit, Source
from vdm_jax.data.sources.digits import Digits
from vdm_jax.data.sources.folder import Folder
from vdm_jax.data.sources.pictures import Pictures
from vdm_jax.data.sources.records import Records
from vdm_jax.data.sources.stored_clips import StoredClips
from vdm_jax.data.sources.tfds import Tfds
from vdm_jax.inputs.captions import UNICODE
from vdm_jax.inputs.captions import vocabulary as words_of
from vdm_jax.inputs.paths import local_path
from vdm_jax.names import choose


class Kind(NamedTuple):
  """How the data of one `data.name` are opened."""

  build: Callable[..., Clips]  # of (config, *, split, seed, quarantine), as `build` below
  source: type[Source] | None = None  # clips stored at data.path, which can also be mixed, inspected and converted
  has_parts: bool = False  # the data sets are those that data.mixture lists


class Overview(NamedTuple):
  """What a user should know of data before training."""

  num_clips: int  # that are trained on
  remarks: tuple[str, ...]  # what was left out, as `Source.remarks`
  captions: tuple[str, ...]  # without the empty ones
  frame_rate: float  # frames per second of the training clips as they are trained on, their median; 0 if unknown


def stored(source: type[Source]) -> Kind:
  """Return the kind of data whose clips are stored at `data.path` and opened by `source(path)`."""
  return Kind(functools.partial(_build_stored, source), source)


def build(config: Any, split: str, seed: int, quarantine: str | Path | None = None) -> Clips:
  """Return the clips of one split of the configured data.

  Args:
    config: section `data` of a configuration.
    split: 'train' or 'test', which have no clip in common unless `train_on_all` is set.
    seed: of everything random about the data themselves and the substitutes of unusable clips.
    quarantine: folder in which unusable clips are listed in `quarantine.jsonl`; None: nowhere.

  Raises:
    ValueError: settings do not fit together, or too many clips cannot be used; and what the source raises.
  """
  if split not in SPLITS:
    raise ValueError(f"data: split={split!r} is not a valid split; use 'train' or 'test'.")
  kind = choose('data.name', config.name, KINDS)
  for key, unset in (('frame_rate', 'if unknown'), ('target_frame_rate', 'to keep that of the clips')):
    if config[key] < 0:
      raise ValueError(f'data.{key}={config[key]} is not a valid frame rate; use frames per second, or 0 {unset}.')
  if _follows_links(config) and not (kind.has_parts or config.images or (kind.source and kind.source.follows_links)):
    raise ValueError(f'data.follow_links=True has no effect with data.name={config.name!r}; set it to False.')
  if config.mixture and not kind.has_parts:
    raise ValueError(f"data.mixture has no effect with data.name={config.name!r}; use 'mixture' there, or () here.")
  return kind.build(config, split=split, seed=seed, quarantine=quarantine)


def build_images(config: Any, split: str, seed: int, quarantine: str | Path | None = None) -> Mixture | None:
  """Return the data sets of `config.images`, from whose clips single frames are taken; None if there are none.

  The other arguments are those of `build`. Raises as it does, and ValueError if no setting uses the images.
  """
  if not config.images:
    return None
  if not config.num_images and not config.image_rate:
    raise ValueError('data.images has no effect with data.num_images=0 and data.image_rate=0; set one, or this to ().')
  return _mix('data.images', config, {'num_frames': 1}, split=split, seed=seed, quarantine=quarantine)


def locate(where: str) -> tuple[str, str]:
  """Return the `data.name` and the `data.path` of data that a command names.

  Args:
    where: a path, whose kind is recognized by its files; KIND:PATH; or the name of a kind that is not stored.

  Raises:
    ValueError: KIND is unknown, and there is no file or folder of this name; or the path is a URL.

  >>> locate('digits'), locate('pictures:photos'), locate('clips')
  (('digits', ''), ('pictures', 'photos'), ('folder', 'clips'))
  """
  name, colon, path = where.partition(':')
  if name in KINDS and bool(colon) == (KINDS[name].source is not None) and not Path(where).exists():
    return name, local_path('data', path)
  sources = {name: kind.source for name, kind in KINDS.items() if kind.source is not None}
  if colon and name.isidentifier() and not path.startswith('//') and not Path(where).exists():
    choose(f'KIND:PATH={where!r}: KIND', name, sources)
  where = local_path('data', where)
  return next((name for name, source in sources.items() if source.recognizes(Path(where))), DEFAULT), where


def open_stored(where: str, split: str, *, follow_links: bool = False, **settings: Any) -> tuple[str, StoredClips]:
  """Open stored clips.

  Args:
    where: as for `locate`.
    split: 'train' or 'test'.
    follow_links: `data.follow_links`.
    **settings: those of `StoredClips`.

  Returns:
    The `data.name`, and the clips.

  Raises:
    ValueError: the data are not stored; and what the source raises.
  """
  name, path = locate(where)
  if (source := KINDS[name].source) is None:
    raise ValueError(f'{name} are not stored clips; name a folder or a file, or KIND:PATH.')
  return name, StoredClips(open_source(source, path, follow_links), split, **settings)


def open_source(source: type[Source], path: str, follow_links: bool = False) -> Source:
  """Return the source at a path; one without links in it ignores `follow_links`. Raises what the source raises."""
  return source(path, follow_links=True) if follow_links and source.follows_links else source(path)


def vocabulary(config: Any) -> tuple[str, ...]:
  """Return all words that captions of the data can contain by `data.word_rule`, sorted. Raises as `build` does."""
  rule = config.get('word_rule') or UNICODE  # older code that makes its own section does not have the key
  return mixture.union(
    clips.vocabulary if rule == UNICODE or not hasattr(clips, 'captions') else words_of(clips.captions, rule)
    for clips in _all(config)
  )


def captions(config: Any) -> tuple[str, ...]:
  """Return all captions of both splits, each once, sorted.

  Raises as `build` does, and ValueError if the data cannot list their captions.
  """
  parts = _all(config)
  if any(getattr(clips, 'captions', None) is None for clips in parts):
    raise ValueError(
      f'data.name={config.name!r} does not list its captions, so their embeddings cannot be computed in advance; '
      'leave data.text_cache empty.'
    )
  return mixture.union(clips.captions for clips in parts)


def overview(config: Any, count: int = 4096) -> Overview:
  """Return what a user should know of the training clips and images before training.

  Args:
    config: section `data` of a configuration.
    count: captions to return of each data set at most, of clips spread evenly over it.

  Raises as `build` does, and UnreadableText.
  """
  opened = _all(config)
  parts = [part for clips in opened for part in (clips.parts if isinstance(clips, Mixture) else (clips,))]
  captions = []
  for part in parts:
    if hasattr(part, 'description'):  # others, such as digits, list what captions they may draw
      every = range(0, len(part), -(-len(part) // count))
      captions += [part.description(clip)[0] for clip in every]
    elif listed := getattr(part, 'captions', ()):
      captions += listed[:: -(-len(listed) // count)]
  remarks = tuple(remark for part in parts for remark in getattr(part, 'remarks', ()))
  return Overview(len(opened[0]), remarks, tuple(filter(None, captions)), _frame_rate(config, opened[0]))


def _frame_rate(config: Any, clips: Clips, count: int = 64) -> float:
  """Return the median frame rate of clips, as `Overview` has it, measured on some of them."""
  if config.num_frames == 1:
    return 0.0
  chosen = clips.first(count) if isinstance(clips, Mixture) else range(0, len(clips), -(-len(clips) // count))
  rates = [rate for clip in chosen if (rate := _rate_of(clips, clip))]
  rate = (config.target_frame_rate or statistics.median_low(rates)) if rates else 0.0
  return round(rate / config.frame_skip, 3)


def _rate_of(clips: Clips, clip: int) -> float:
  if isinstance(clips, Mixture):
    which, numbers = clips.part_of(clip)
    return _rate_of(clips.parts[which], clip - numbers.start)
  try:
    return clips.info(clip).frame_rate if hasattr(clips, 'info') else clips.read(clip, None, 1).frame_rate
  except (ValueError, OSError):  # a clip that cannot be used
    return 0.0


def num_classes(config: Any) -> int:
  """Return the number of labels that the network receives, 0 unless data.labels is set. Raises as `build` does."""
  return (mixture.agreed_classes(_all(config)) or 0) if config.labels else 0


def frame_skips(config: Any) -> tuple[int, int]:
  """Return the smallest and the largest frame skip. Raises ValueError if they are not valid."""
  if config.frame_skip < 1:
    raise ValueError(f'data.frame_skip={config.frame_skip} must be 1 or more.')
  if config.frame_skip_max and config.frame_skip_max < config.frame_skip:
    raise ValueError(
      f'data.frame_skip_max={config.frame_skip_max} is below data.frame_skip={config.frame_skip}; '
      'raise it, or set it to 0 for a single skip.'
    )
  return config.frame_skip, config.frame_skip_max or config.frame_skip


def _all(config: Any) -> list[Clips]:
  """Return the training clips, and the images if there are any."""
  images = build_images(config, 'train', seed=0)
  return [build(config, 'train', seed=0), *([] if images is None else [images])]


def _follows_links(config: Any) -> bool:
  return config.get('follow_links', False)  # as above


def _build_stored(source: type[Source], config: Any, **opening: Any) -> Substituting:
  return _open(source, config.path, config.frame_rate, config, _windows(config), **opening)


def _build_mixture(config: Any, **opening: Any) -> Mixture:
  if not config.mixture:
    raise ValueError(
      f'data.name={config.name!r}, but data.mixture is empty; list data sets there, each as {mixture.FORM}.'
    )
  if config.path:
    raise ValueError(f'data.path={config.path!r} has no effect with data.name={config.name!r}; leave it empty.')
  return _mix('data.mixture', config, _windows(config), **opening)


def _build_digits(config: Any, *, split: str, seed: int, quarantine: str | Path | None) -> Digits:
  if config.flip:
    raise ValueError("data.flip=True would make the captions of data.name='digits' wrong; set it to False.")
  if config.target_frame_rate:
    raise ValueError(
      f"data.target_frame_rate={config.target_frame_rate} has no effect with data.name='digits', which has a single "
      'frame rate; set it to 0.'
    )
  if config.train_on_all:
    raise ValueError("data.train_on_all=True has no effect with data.name='digits', which is endless; set it to False.")
  modes = dict(config.digits)
  span, clip_frames = (config.num_frames - 1) * frame_skips(config)[1] + 1, modes.pop('clip_frames', 0)
  if clip_frames and clip_frames < span:
    raise ValueError(
      f'data.digits.clip_frames={clip_frames}, but a window spans {span} frames; use {span} or more, or 0.'
    )
  return Digits(
    split=split,
    seed=seed,
    num_frames=clip_frames or span,
    height=config.height - 2 * config.pad_rows,
    width=config.width,
    channels=config.channels,
    **modes,
  )


def _windows(config: Any) -> dict[str, Any]:
  """Return the settings of `StoredClips` for the windows that training reads."""
  least, most = frame_skips(config)
  return {
    'num_frames': config.num_frames,
    'target_frame_rate': config.target_frame_rate,
    'min_frame_skip': least,
    'max_frame_skip': most,
  }


def _mix(key: str, config: Any, windows: dict[str, Any], **opening: Any) -> Mixture:
  """Return the mixture that the setting `key` lists."""
  sources = {name: kind.source for name, kind in KINDS.items() if kind.source is not None}
  clips, weights = [], []
  for part in mixture.parse(key, config[key.removeprefix('data.')], list(sources)):
    rate = config.frame_rate if part.frame_rate is None else part.frame_rate
    try:
      clips.append(_open(sources[part.name], part.path, rate, config, windows, **opening))
    except EmptySplit:
      if opening['split'] == 'train':
        raise
      continue  # a part of a single clip holds none out
    weights.append(part.weight)
  if not clips:
    raise EmptySplit(f'no data set of {key} has a clip of the {opening["split"]} split; add clips to one.')
  return Mixture(clips, weights)


def _open(
  source: type[Source],
  path: str,
  frame_rate: float,
  config: Any,
  windows: dict[str, Any],
  *,
  split: str,
  seed: int,
  quarantine: str | Path | None,
) -> Substituting:
  """Open one stored data set, whose unusable clips are replaced."""
  numbers = 'missing' if config.missing_values else 'finite'
  expected = 'pixels' if config.normalization == 'pixels' else numbers
  windows = windows | {'frame_rate': frame_rate, 'train_on_all': config.train_on_all, 'expected': expected}
  clips = StoredClips(open_source(source, path, _follows_links(config)), split, **windows)
  return Substituting(clips, seed, Quarantine(clips.path, clips.total, config.max_bad_share, quarantine))


KINDS: dict[str, Kind] = {
  'digits': Kind(_build_digits),
  'folder': stored(Folder),
  'array': stored(Array),
  'records': stored(Records),
  'tfds': stored(Tfds),
  'pictures': stored(Pictures),
  'webdataset': stored(WebDataset),
  'parquet': stored(Parquet),
  'mixture': Kind(_build_mixture, has_parts=True),
}
DEFAULT = 'folder'  # the kind of files that no other kind recognizes
