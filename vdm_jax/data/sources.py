"""Sources of clips by name. A new one is a class with `Source`'s methods and a line in `_BUILDERS`."""

from __future__ import annotations

import difflib
from typing import Any, Protocol

import numpy as np

from vdm_jax.data import transforms
from vdm_jax.data.clip import Clip
from vdm_jax.data.digits import SPLITS, Digits
from vdm_jax.data.folder import Folder


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

  def read(self, index: int, rng: np.random.Generator, num_frames: int, frame_skip: int = 1) -> Clip:
    """`num_frames` frames of clip `index`, each `frame_skip` after the one before.

    What is random about them comes from `rng` alone.
    """


def build(config: Any, split: str, seed: int) -> Source:
  """The source that `config.name` names; `config` is the section `data` of a configuration.

  `split` is 'train' or 'test', which have nothing in common. Raises ValueError on settings that do not fit,
  and what the source itself raises.
  """
  if split not in SPLITS:
    raise ValueError(f"data: split is {split!r}; use 'train' or 'test'.")
  if config.name not in _BUILDERS:
    nearest = difflib.get_close_matches(config.name, _BUILDERS, n=1, cutoff=0.0)[0]
    raise ValueError(
      f'data.name={config.name!r} is unknown; the nearest is {nearest!r}, all are {", ".join(_BUILDERS)}.'
    )
  return _BUILDERS[config.name](config, split, seed)


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


def examples(config: Any, split: str, *, seed: int, count: int, num_frames: int | None = None) -> list[Clip]:
  """The first `count` clips of a split, or all there are; raises as `build` does.

  They have `num_frames` frames, `data.num_frames` by default, at `data.frame_skip`, of the configured size without its
  padding.
  """
  source = build(config, split, seed)
  num_frames = num_frames or config.num_frames
  clips = []
  for index in range(min(count, len(source))):
    clip = source.read(index, np.random.default_rng((seed, index)), num_frames, config.frame_skip)
    video = transforms.resize_and_crop(clip.video, config.height - 2 * config.pad_rows, config.width)
    clips.append(clip._replace(video=transforms.to_channels(video, config.channels)))
  return clips


def _digits(config: Any, split: str, seed: int) -> Digits:
  if config.flip:
    raise ValueError("data.flip=True would make the captions of data.name='digits' false; set it to False.")
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


def _folder(config: Any, split: str, seed: int) -> Folder:
  del seed  # files are what they are
  return Folder(config.path, split, num_frames=config.num_frames, max_frame_skip=frame_skips(config)[1])


_BUILDERS = {'digits': _digits, 'folder': _folder}
