"""The `digits` protocol: every one-digit caption three times, read by the shipped scorer, offline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vdm_jax import data
from vdm_jax.data.sources.digits import DIRECTIONS
from vdm_jax.evaluation.digits.digit_classifier import (
  WEIGHTS_PATH,
  Scores,
  accuracy,
  parse_caption,
  read_clips,
  score_read,
)
from vdm_jax.evaluation.metrics import neighbors
from vdm_jax.evaluation.metrics.detail import detail
from vdm_jax.evaluation.metrics.frechet import frechet_distance
from vdm_jax.evaluation.metrics.motion import compare_motion, motion
from vdm_jax.video import to_float, to_uint8

CAPTIONS = tuple(f'a {digit} moving {direction}' for digit in range(10) for direction in DIRECTIONS)
REPEATS = 3
TRAINING_CLIPS = 8000  # at most so many are looked at for memorisation


def evaluate_digits(
  generate: Callable[[Sequence[str]], np.ndarray], config: Any, *, seed: int = 0, num_trained: int = TRAINING_CLIPS
) -> dict[str, Any]:
  """Scores videos made from all 40 captions, three of each.

  Args:
    generate: prompts -> videos float [n t h w c] in [-1, 1].
    config: the section `data` of the model's configuration; clips of the same settings are the reference.
    seed, num_trained: of the run, and how many clips it was trained on: they say which ones.

  Returns:
    `digit`, `direction`: shares read as prompted; `frame_consistency`: share of frames that show their clip's digit;
    `frechet` and `frechet_frames`: distances of clips and of single frames to as many of held-out glyphs; `precision`
    and `recall` against these. All look at 16x16 means of larger pictures; `detail` is
    `vdm_jax.evaluation.metrics.detail`.
    `real` holds the same of training clips, the best that can be expected with so few; `scorer` the scorer's own
    accuracy; `weights` the hash of its file. `diversity`, `motion` and `memorisation` are those of
    `vdm_jax.evaluation.metrics.neighbors` and `motion`, against clips of held-out glyphs and the first TRAINING_CLIPS
    clips that the run was trained on.

  Raises ValueError when the model was not trained on clips of one digit on a straight path.
  """
  if config.name != 'digits' or config.digits.num_digits != 1 or config.digits.bounce:
    raise ValueError(
      "the protocol 'digits' reads one digit on a straight path: it needs a model of data.name='digits', "
      'data.digits.num_digits=1, data.digits.bounce=False.'
    )
  prompts = CAPTIONS * REPEATS
  heldout, _ = example_clips(config, 'test', len(prompts))
  seen, captions = example_clips(config, 'train', len(prompts))
  new, real = to_float(heldout), to_float(seen)
  videos = generate(prompts)
  reference, read = read_clips(new), read_clips(videos)
  made, memorised = read.features, None
  if num_trained:
    train, _ = trained_clips(config, seed, min(num_trained, TRAINING_CLIPS))
    memorised = neighbors.memorisation(made, reference.features, read_clips(to_float(train)).features)

  def quality(videos: np.ndarray, captions: Sequence[str], read: Scores) -> dict[str, float | None]:
    wanted = np.array([parse_caption(caption) for caption in captions])
    return {
      **score_read(read, wanted, reference.features),
      'frechet_frames': frechet_distance(_frames(read), _frames(reference)),
      **neighbors.precision_recall(read.features, reference.features),
      'detail': detail(videos, new),
    }

  return {
    'protocol': 'digits',
    'num_videos': len(prompts),
    **quality(videos, prompts, read),
    'real': quality(real, captions, read_clips(real)),
    'scorer': accuracy(),
    'weights': hashlib.sha256(WEIGHTS_PATH.read_bytes()).hexdigest(),
    'diversity': {
      'pairwise_per_prompt': neighbors.mean_pairwise(made, [prompts.index(prompt) for prompt in prompts]),
      'pairwise': neighbors.mean_pairwise(made),
      'pairwise_data': neighbors.mean_pairwise(reference.features),
      'k': neighbors.NEIGHBOURS,
    },
    'motion': compare_motion(motion(to_uint8(videos)), motion(heldout)),
    'memorisation': memorised,
  }


def example_clips(config: Any, split: str, count: int) -> tuple[np.ndarray, list[str]]:
  """The first clips of a split, uint8 [n t h w c], and their captions."""
  clips = data.examples(config, split, seed=0, count=count)
  return np.stack([clip.video for clip in clips]), [clip.caption for clip in clips]


def trained_clips(config: Any, seed: int, count: int) -> tuple[np.ndarray, list[str]]:
  """The first clips that a run of this seed is trained on, uint8 [n t h w c], and their captions."""
  source = data.ExampleClips(config, 'train', seed=seed)
  clips = [source[number] for number in data.trained_on(config, seed=seed, count=count)]
  return np.stack([clip.video for clip in clips]), [clip.caption for clip in clips]


def _frames(read: Scores) -> np.ndarray:
  return read.frame_features.reshape(-1, read.frame_features.shape[-1])
