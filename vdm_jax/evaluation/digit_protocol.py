"""The `digits` protocol: every one-digit caption three times, read by the shipped scorer, offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vdm_jax import data
from vdm_jax.data.digits import DIRECTIONS
from vdm_jax.evaluation.digits import accuracy, read_clips, score

CAPTIONS = tuple(f'a {digit} moving {direction}' for digit in range(10) for direction in DIRECTIONS)
REPEATS = 3


def evaluate_digits(generate: Callable[[Sequence[str]], np.ndarray], config: Any) -> dict[str, Any]:
  """Scores videos made from all 40 captions, three of each.

  Args:
    generate: prompts -> videos float [n t h w c] in [-1, 1].
    config: the section `data` of the model's configuration; clips of the same settings are the reference.

  Returns:
    `digit`, `direction`: shares read as prompted; `frame_consistency`: share of frames that show their clip's digit;
    `frechet`: distance to as many clips of held-out glyphs. `real` holds the same of training clips, the best that
    can be expected with so few; `scorer` the scorer's own accuracy.

  Raises ValueError when the model was not trained on clips of one digit on a straight path.
  """
  if config.name != 'digits' or config.digits.num_digits != 1 or config.digits.bounce:
    raise ValueError(
      "the protocol 'digits' reads one digit on a straight path: it needs a model of data.name='digits', "
      'data.digits.num_digits=1, data.digits.bounce=False.'
    )
  prompts = CAPTIONS * REPEATS
  heldout, _ = _clips(config, 'test', len(prompts))
  reference = read_clips(heldout).features
  return {
    'protocol': 'digits',
    'num_videos': len(prompts),
    **score(generate(prompts), prompts, reference=reference),
    'real': score(*_clips(config, 'train', len(prompts)), reference=reference),
    'scorer': accuracy(),
  }


def _clips(config: Any, split: str, count: int) -> tuple[np.ndarray, list[str]]:
  clips = data.examples(config, split, seed=0, count=count)
  return data.to_float(np.stack([clip.video for clip in clips])), [clip.caption for clip in clips]
