"""Sources of clips by name. A new one of stored clips is a subclass of `Stored` and an entry of `_STORED`."""

from __future__ import annotations

import fractions
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vdm_jax.data import mixture
from vdm_jax.data.mixture import Mixture
from vdm_jax.data.quarantine import Quarantine, Substituting
from vdm_jax.data.sources.array import Array
from vdm_jax.data.sources.contract import Clip
from vdm_jax.data.sources.digits import SPLITS, Digits
from vdm_jax.data.sources.folder import Folder
from vdm_jax.data.sources.pictures import Pictures
from vdm_jax.data.sources.records import INFO as RECORDS_INFO
from vdm_jax.data.sources.records import Records
from vdm_jax.data.sources.stored_clips import Stored
from vdm_jax.data.sources.tfds import INFO as TFDS_INFO
from vdm_jax.data.sources.tfds import Tfds
from vdm_jax.names import choose


class Source(Protocol):
  """Clips by random access. Must be picklable, for workers."""

  @property
  def num_classes(self) -> int | None:
    """Number of labels, None when clips have none."""

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words that captions can contain, in lower case, sorted."""

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions of both splits, each once, sorted; a source that cannot list them has no such attribute."""

  def __len__(self) -> int: ...

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """`num_frames` frames of clip `index`, each `frame_skip` after the one before.

    What is random about them comes from `rng` alone; without one they are the clip's first.
    """


def build(config: Any, split: str, seed: int, quarantine: str | Path | None = None) -> Source:
  """The source that `config.name` names; `config` is the section `data` of a configuration.

  `split` is 'train' or 'test', which have nothing in common unless `train_on_all` is set. Stored clips that cannot be
  used are replaced, and listed in `quarantine.jsonl` of the folder `quarantine` if there is one. Raises ValueError on
  settings that do not fit or too many such clips, and what the source itself raises.
  """
  if split not in SPLITS:
    raise ValueError(f"data: split is {split!r}; use 'train' or 'test'.")
  names = ('digits', *_STORED, 'mixture')
  choose('data.name', config.name, names)
  for key in ('frame_rate', 'target_frame_rate'):
    if config[key] < 0:
      raise ValueError(f'data.{key}={config[key]}, but it must be frames per second, or 0 for {_NO_RATE[key]}.')
  if config.mixture and config.name != 'mixture':
    raise ValueError(f"data.mixture has no effect with data.name={config.name!r}; use 'mixture' there, or () here.")
  if config.name == 'digits':
    return _digits(config, split, seed)
  least, most = frame_skips(config)
  skips = {'min_frame_skip': least, 'max_frame_skip': most}
  settings = {'num_frames': config.num_frames, 'target_frame_rate': config.target_frame_rate, **skips}
  if config.name != 'mixture':
    part = mixture.Part(config.name, config.path, None, fractions.Fraction(1))
    return _open(part, config, split, seed, quarantine, settings)
  if not config.mixture:
    raise ValueError(f"data.name='mixture', but data.mixture is empty; list its data sets, each as {mixture.FORM}.")
  if config.path:
    raise ValueError(f"data.path={config.path!r} has no effect with data.name='mixture'; leave it empty.")
  return _mix('data.mixture', config, split, seed, quarantine, settings)


def build_images(config: Any, split: str, seed: int, quarantine: str | Path | None = None) -> Mixture | None:
  """The data sets of `config.images`, of whose clips single frames are taken; None if there are none.

  The other arguments are those of `build`. Raises as it does, and where nothing would use the images.
  """
  if not config.images:
    return None
  if not config.num_images and not config.image_rate:
    raise ValueError('data.images has no effect with data.num_images=0 and data.image_rate=0; set one, or this to ().')
  return _mix('data.images', config, split, seed, quarantine, {'num_frames': 1})


def open_stored(path: str, split: str, **settings: Any) -> tuple[str, Stored]:
  """The `data.name` that reads what is at `path`, and the source; `settings` are those of `Stored`.

  Where it cannot be told from the files, as with pictures, the path begins with it: pictures:PATH.
  """
  kind, colon, rest = path.partition(':')
  if colon and kind in _STORED and not Path(path).exists():
    return kind, _STORED[kind](rest, split, **settings)
  name = 'array' if path.lower().endswith('.npy') and Path(path).is_file() else 'folder'
  marks = {RECORDS_INFO: 'records', TFDS_INFO: 'tfds'}
  name = next((marks[mark] for mark in marks if (Path(path) / mark).is_file()), name)
  return name, _STORED[name](path, split, **settings)


def vocabulary(config: Any) -> tuple[str, ...]:
  """All words that captions of the data can contain, in lower case, sorted; raises as `build` does."""
  return mixture.union(source.vocabulary for source in _all(config))


def captions(config: Any) -> tuple[str, ...]:
  """All captions of both splits, each once, sorted; raises as `build` does, and where the source cannot list them."""
  sources = _all(config)
  if any(getattr(source, 'captions', None) is None for source in sources):
    raise ValueError(
      f'data.name={config.name!r} does not list its captions, so their embeddings cannot be computed beforehand; '
      'leave data.text_cache empty.'
    )
  return mixture.union(source.captions for source in sources)


def num_classes(config: Any) -> int:
  """Labels that the network is handed, 0 unless data.labels is set; raises as `build` does."""
  return (mixture.agreed_classes(_all(config)) or 0) if config.labels else 0


def frame_skips(config: Any) -> tuple[int, int]:
  """The smallest and the largest frame skip; raises ValueError if these are none."""
  if config.frame_skip < 1:
    raise ValueError(f'data.frame_skip={config.frame_skip}, but it must be 1 or more.')
  if config.frame_skip_max and config.frame_skip_max < config.frame_skip:
    raise ValueError(
      f'data.frame_skip_max={config.frame_skip_max} is below data.frame_skip={config.frame_skip}; '
      'raise it, or set it to 0 for the one skip.'
    )
  return config.frame_skip, config.frame_skip_max or config.frame_skip


def _all(config: Any) -> list[Source]:
  images = build_images(config, 'train', seed=0)
  return [build(config, 'train', seed=0), *([] if images is None else [images])]


def _mix(
  key: str, config: Any, split: str, seed: int, quarantine: str | Path | None, settings: dict[str, Any]
) -> Mixture:
  parts = mixture.parse(key, config[key.removeprefix('data.')], list(_STORED))
  sources = [_open(part, config, split, seed, quarantine, settings) for part in parts]
  return Mixture(sources, [part.weight for part in parts])


def _open(
  part: mixture.Part, config: Any, split: str, seed: int, quarantine: str | Path | None, settings: dict[str, Any]
) -> Substituting:
  rate = config.frame_rate if part.frame_rate is None else part.frame_rate
  source = _STORED[part.name](part.path, split, frame_rate=rate, train_on_all=config.train_on_all, **settings)
  return Substituting(source, seed, Quarantine(source.path, source.total, config.max_bad_share, quarantine))


def _digits(config: Any, split: str, seed: int) -> Digits:
  if config.flip:
    raise ValueError("data.flip=True would make the captions of data.name='digits' false; set it to False.")
  if config.target_frame_rate:
    raise ValueError(
      f"data.target_frame_rate={config.target_frame_rate} has no meaning for data.name='digits', which has one frame "
      'rate; set it to 0.'
    )
  if config.train_on_all:
    raise ValueError("data.train_on_all=True has no meaning for data.name='digits', which is endless; set it to False.")
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


_STORED: dict[str, type[Stored]] = {
  'folder': Folder,
  'array': Array,
  'records': Records,
  'tfds': Tfds,
  'pictures': Pictures,
}
_NO_RATE = {'frame_rate': 'not known', 'target_frame_rate': "the clips' own"}
