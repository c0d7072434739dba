"""From prompts, labels and numbers to the `Conditioning` of a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from vdm_jax.types import Conditioning


def build(
  model: Any,
  prompts: Sequence[str] | None,
  labels: Sequence[int] | None,
  *,
  count: int | None,
  frame_rate: float | None,
  original_size: tuple[int, int] | None,
) -> Conditioning:
  """Return `Model.condition` of a model; it documents the arguments."""
  tokens = mask = label = None
  if isinstance(prompts, str):
    raise ValueError(f'prompts={prompts!r} is one string: give a list of prompts, one per video.')
  if prompts is not None and labels is not None and len(prompts) != len(labels):
    raise ValueError(f'{len(prompts)} prompts and {len(labels)} labels were given: give one of each per video.')
  if prompts is not None:
    if model.encode is None:
      raise ValueError("prompts were given to a model without text (data.text='none'): leave them out, or give labels.")
    _warn_of_unseen(model, prompts)
    tokens, mask = (leaf[:, None] for leaf in model.encode(list(prompts)))
  if labels is not None:
    _check_labels(model, labels)
    label = np.asarray(labels, np.int32)[:, None]
  if frame_rate is not None and not frame_rate > 0:
    raise ValueError(f'frame_rate={frame_rate} must be positive: frames per second, infinite for an image.')
  if original_size is not None and (len(original_size) != 2 or not min(original_size) > 0):
    raise ValueError(f'original_size={tuple(original_size)} is not a valid size: give height and width in pixels.')
  count = len(prompts if prompts is not None else labels if labels is not None else range(count or 1))
  interval = size = None
  if frame_rate is not None and model.takes('frame_interval'):
    interval = np.full(count, 1 / frame_rate, np.float32)
  if original_size is not None and model.takes('resolution'):
    size = np.tile(np.asarray(original_size, np.float32), (count, 1))
  return Conditioning(text=tokens, text_mask=mask, label=label, frame_interval=interval, resolution=size)


def _warn_of_unseen(model: Any, prompts: Sequence[str]) -> None:
  words = getattr(model.encode, 'unknown_words', None)
  for prompt in prompts if words else ():
    if unseen := words(prompt):
      warnings.warn(
        f'prompt {prompt!r}: the model has never seen {", ".join(map(repr, unseen))}; '
        f'it reads each as the unknown word. Words it knows: {" ".join(model.encode.vocabulary)}.',
        stacklevel=4,
      )


def _check_labels(model: Any, labels: Sequence[int]) -> None:
  classes = model.num_classes
  if not classes:
    raise ValueError(
      'labels were given to a model without classes (model.num_classes=0): leave them out, or give prompts.'
    )
  if bad := [label for label in labels if not 0 <= label < classes]:
    raise ValueError(f'label {bad[0]} is not a class of this model: choose 0 to {classes - 1}.')
