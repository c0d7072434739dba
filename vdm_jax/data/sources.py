"""Sources of clips by name. A new one of stored clips is a subclass of `Stored` and an entry of `_STORED`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vdm_jax.data.arrays import Array
from vdm_jax.data.clip import Clip
from vdm_jax.data.digits import SPLITS, Digits
from vdm_jax.data.folder import Folder
from vdm_jax.data.quarantine import Quarantine, Substituting
from vdm_jax.data.records import INFO as RECORDS_INFO
from vdm_jax.data.records import Records
from vdm_jax.data.stored import Stored
from vdm_jax.data.tfds import INFO as TFDS_INFO
from vdm_jax.data.tfds import Tfds


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
  names = ('digits', *_STORED)
  if config.name not in names:
    nearest = difflib.get_close_matches(config.name, names, n=1, cutoff=0.0)[0]
    raise ValueError(
      f'data.name={config.name!r} is unknown; the nearest is {nearest!r}, all are {", ".join(names)}.'
    )
  if config.name == 'digits':
    return _digits(config, split, seed)
  if config.frame_rate < 0:
    raise ValueError(f'data.frame_rate={config.frame_rate}, but it must be frames per second, or 0 for not known.')
  source = _STORED[config.name](
    config.path,
    split,
    num_frames=config.num_frames,
    max_frame_skip=frame_skips(config)[1],
    frame_rate=config.frame_rate,
    train_on_all=config.train_on_all,
  )
  return Substituting(source, seed, Quarantine(source.path, source.total, config.max_bad_share, quarantine))


def open_stored(path: str, split: str, **settings: Any) -> tuple[str, Stored]:
  """The `data.name` that reads what is at `path`, and the source; `settings` are those of `Stored`."""
  name = 'array' if path.lower().endswith('.npy') and Path(path).is_file() else 'folder'
  marks = {RECORDS_INFO: 'records', TFDS_INFO: 'tfds'}
  name = next((marks[mark] for mark in marks if (Path(path) / mark).is_file()), name)
  return name, _STORED[name](path, split, **settings)


def vocabulary(config: Any) -> tuple[str, ...]:
  """All words that captions of the data can contain, in lower case, sorted; raises as `build` does."""
  return build(config, 'train', seed=0).vocabulary


def captions(config: Any) -> tuple[str, ...]:
  """All captions of both splits, each once, sorted; raises as `build` does, and where the source cannot list them."""
  listed = getattr(build(config, 'train', seed=0), 'captions', None)
  if listed is None:
    raise ValueError(
      f'data.name={config.name!r} does not list its captions, so their embeddings cannot be computed beforehand; '
      'leave data.text_cache empty.'
    )
  return listed


def num_classes(config: Any) -> int:
  """Labels that the network is handed, 0 unless data.labels is set; raises as `build` does."""
  return (build(config, 'train', seed=0).num_classes or 0) if config.labels else 0


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


def _digits(config: Any, split: str, seed: int) -> Digits:
  if config.flip:
    raise ValueError("data.flip=True would make the captions of data.name='digits' false; set it to False.")
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


_STORED: dict[str, type[Stored]] = {'folder': Folder, 'array': Array, 'records': Records, 'tfds': Tfds}
