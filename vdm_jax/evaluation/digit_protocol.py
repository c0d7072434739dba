"""The `digits` protocol: every one-digit caption three times, read by the shipped scorer, offline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vdm_jax import data
from vdm_jax.data.digits import DIRECTIONS
from vdm_jax.evaluation import neighbours
from vdm_jax.evaluation.digits import WEIGHTS_PATH, accuracy, read_clips, score
from vdm_jax.evaluation.motion import compare_motion, motion

CAPTIONS = tuple(f'a {digit} moving {direction}' for digit in range(10) for direction in DIRECTIONS)
REPEATS = 3
TRAINING_CLIPS = 1000  # looked at for memorisation


def evaluate_digits(generate: Callable[[Sequence[str]], np.ndarray], config: Any) -> dict[str, Any]:
  """Scores videos made from all 40 captions, three of each.

  Args:
    generate: prompts -> videos float [n t h w c] in [-1, 1].
    config: the section `data` of the model's configuration; clips of the same settings are the reference.

  Returns:
    `digit`, `direction`: shares read as prompted; `frame_consistency`: share of frames that show their clip's digit;
    `frechet`: distance to as many clips of held-out glyphs. `real` holds the same of training clips, the best that
    can be expected with so few; `scorer` the scorer's own accuracy; `weights` the hash of its file. `diversity`,
    `motion` and `memorisation` are those of `vdm_jax.evaluation.neighbours` and `motion`, against the clips of held-out
    glyphs and TRAINING_CLIPS training clips.

  Raises ValueError when the model was not trained on clips of one digit on a straight path.
  """
  if config.name != 'digits' or config.digits.num_digits != 1 or config.digits.bounce:
    raise ValueError(
      "the protocol 'digits' reads one digit on a straight path: it needs a model of data.name='digits', "
      'data.digits.num_digits=1, data.digits.bounce=False.'
    )
  prompts = CAPTIONS * REPEATS
  heldout, _ = example_clips(config, 'test', len(prompts))
  train, captions = example_clips(config, 'train', TRAINING_CLIPS)
  train = data.to_float(train)
  videos = generate(prompts)
  reference, made = read_clips(data.to_float(heldout)).features, read_clips(videos).features
  return {
    'protocol': 'digits',
    'num_videos': len(prompts),
    **score(videos, prompts, reference=reference),
    'real': score(train[: len(prompts)], captions[: len(prompts)], reference=reference),
    'scorer': accuracy(),
    'weights': hashlib.sha256(WEIGHTS_PATH.read_bytes()).hexdigest(),
    'diversity': {
      'pairwise_per_prompt': neighbours.mean_pairwise(made, [prompts.index(prompt) for prompt in prompts]),
      'pairwise': neighbours.mean_pairwise(made),
      'pairwise_data': neighbours.mean_pairwise(reference),
      **neighbours.precision_recall(made, reference),
      'k': neighbours.NEIGHBOURS,
    },
    'motion': compare_motion(motion(data.to_uint8(videos)), motion(heldout)),
    'memorisation': neighbours.memorisation(made, reference, read_clips(train).features),
  }


def example_clips(config: Any, split: str, count: int) -> tuple[np.ndarray, list[str]]:
  """The first clips of a split, uint8 [n t h w c], and their captions."""
  clips = data.examples(config, split, seed=0, count=count)
  return np.stack([clip.video for clip in clips]), [clip.caption for clip in clips]
