"""The protocol `digits`: three videos of each one-digit caption, scored by the shipped classifier. Needs no files."""

from __future__ import annotations

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
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.runtime.hashing import sha256
from vdm_jax.video import to_float, to_uint8

CAPTIONS = tuple(f'a {digit} moving {direction}' for digit in range(10) for direction in DIRECTIONS)
REPEATS = 3
TRAINING_CLIPS = 8000  # most training clips that are searched for copies


def evaluate_digits(
  generate: Callable[[Sequence[str]], np.ndarray], config: Any, *, seed: int = 0, num_trained: int = TRAINING_CLIPS
) -> dict[str, Any]:
  """Return the scores of three videos of each of the 40 captions.

  All scores but `detail` are computed from 16x16 means of larger pictures.

  Args:
    generate: prompts -> videos float `[n t h w c]` in [-1, 1].
    config: the section `data` of the model's configuration; the reference clips have the same settings.
    seed: of the run; together with `num_trained` it determines which clips the run was trained on.
    num_trained: number of clips the run was trained on; 0: unknown.

  Returns:
    The record:
    - `digit`, `direction`, `frame_consistency`: as in `score`.
    - `frechet`, `frechet_frames`: Fréchet distance of clips and of single frames to as many of held-out glyphs.
    - `precision`, `recall`: against the same clips.
    - `detail`: see `metrics.detail`.
    - `real`: all of these for training clips, the best to expect with so few videos.
    - `scorer`: accuracy of the classifier; `weights`: hash of its file.
    - `diversity`, `motion`, `memorisation`: see `metrics.neighbors` and `metrics.motion`, compared to clips of held-out
      glyphs and to the first TRAINING_CLIPS clips that the run was trained on.

  Raises:
    ValueError: the model was not trained on clips of one digit on a straight path.

  >>> from vdm_jax import configuration, data
  >>> from vdm_jax.video import to_float
  >>> config = configuration.default().data
  >>> config.update(name='digits', num_frames=8, height=16, width=16, channels=1)
  >>> clips = np.stack([clip.video for clip in data.examples(config, 'train', seed=1, count=120)])
  >>> record = evaluate_digits(lambda prompts: to_float(clips), config, num_trained=0)
  >>> record['digit'] < 0.3 < record['frame_consistency']  # clips of other captions
  True
  """
  _check_data(config)
  prompts = CAPTIONS * REPEATS
  heldout, _ = example_clips(config, 'test', len(prompts))
  train, train_captions = example_clips(config, 'train', len(prompts))
  new, real = to_float(heldout), to_float(train)
  videos = generate(prompts)
  reference, read = read_clips(new), read_clips(videos)
  return {
    'protocol': DIGITS.name,
    'num_videos': len(prompts),
    **_scores(videos, prompts, read, new, reference),
    'real': _scores(real, train_captions, read_clips(real), new, reference),
    'scorer': accuracy(),
    'weights': sha256(WEIGHTS_PATH),
    'diversity': _diversity(read, prompts, reference),
    'motion': compare_motion(motion(to_uint8(videos)), motion(heldout)),
    'memorisation': _memorization(read, reference, config, seed, num_trained) if num_trained else None,
  }


def example_clips(config: Any, split: str, count: int) -> tuple[np.ndarray, list[str]]:
  """Return the first clips of a split, uint8 [n t h w c], and their captions."""
  clips = data.examples(config, split, seed=0, count=count)
  return np.stack([clip.video for clip in clips]), [clip.caption for clip in clips]


def trained_clips(config: Any, seed: int, count: int) -> tuple[np.ndarray, list[str]]:
  """Return the first clips that a run of this seed is trained on, uint8 [n t h w c], and their captions."""
  source = data.ExampleClips(config, 'train', seed=seed)
  clips = [source[number] for number in data.trained_on(config, seed=seed, count=count)]
  return np.stack([clip.video for clip in clips]), [clip.caption for clip in clips]


def _check_data(config: Any) -> None:
  if config.name != 'digits' or config.digits.num_digits != 1 or config.digits.bounce:
    raise ValueError(
      "the protocol 'digits' measures models of one digit on a straight path: use a model with data.name='digits', "
      'data.digits.num_digits=1 and data.digits.bounce=False.'
    )


def _scores(
  videos: np.ndarray, captions: Sequence[str], read: Scores, real: np.ndarray, reference: Scores
) -> dict[str, float | None]:
  """Scores of videos `read` by the classifier; `real` are the reference's videos."""
  wanted = np.array([parse_caption(caption) for caption in captions])
  return {
    **score_read(read, wanted, reference.features),
    'frechet_frames': frechet_distance(_frame_features(read), _frame_features(reference)),
    **neighbors.precision_recall(read.features, reference.features),
    'detail': detail(videos, real),
  }


def _diversity(read: Scores, prompts: Sequence[str], reference: Scores) -> dict[str, Any]:
  return {
    'pairwise_per_prompt': neighbors.mean_pairwise(read.features, [prompts.index(prompt) for prompt in prompts]),
    'pairwise': neighbors.mean_pairwise(read.features),
    'pairwise_data': neighbors.mean_pairwise(reference.features),
    'k': neighbors.NEIGHBORS,
  }


def _memorization(read: Scores, reference: Scores, config: Any, seed: int, num_trained: int) -> dict[str, Any]:
  trained, _ = trained_clips(config, seed, min(num_trained, TRAINING_CLIPS))
  return neighbors.memorization(read.features, reference.features, read_clips(to_float(trained)).features)


def _frame_features(read: Scores) -> np.ndarray:
  return read.frame_features.reshape(-1, read.frame_features.shape[-1])


DIGITS = Protocol(
  name='digits',
  source='this library',
  task='captions',
  metrics=(),
  references=('test',),
  height=0,
  width=0,
  num_frames=0,
  num_samples=len(CAPTIONS) * REPEATS,
  num_references=len(CAPTIONS) * REPEATS,
  training_clips=TRAINING_CLIPS,
  guidance_weights=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
  num_steps=(8, 16, 32, 64, 128, 256),
  notes='Each of the 40 captions three times, scored by the shipped classifier. Clips of the size that the run was '
  'trained on; the reference is held-out handwriting.',
  evaluate=evaluate_digits,
  record_figures=('digit', 'direction', 'frame_consistency', 'frechet'),
  objective=('digits', 'frechet'),
)
