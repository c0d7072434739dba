"""The protocol `scenes`: two colored digits, for captions with and without combinations withheld from training.

The shipped scene reader scores the videos. Needs no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vdm_jax import data
from vdm_jax.data.sources import catalog
from vdm_jax.data.sources.digits import COLORS, DIRECTIONS, MOTIONS, Phrase, parse_caption, withheld
from vdm_jax.evaluation.digits.digit_protocol import trained_clips
from vdm_jax.evaluation.digits.scene_reader import (
  WEIGHTS_PATH,
  Reading,
  accuracy,
  clip_features,
  glyph_features,
  read_scenes,
  score,
)
from vdm_jax.evaluation.metrics import neighbors
from vdm_jax.evaluation.metrics.detail import detail
from vdm_jax.evaluation.metrics.frechet import frechet_distance
from vdm_jax.evaluation.metrics.motion import compare_motion, motion
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.runtime.hashing import sha256
from vdm_jax.video import to_float, to_uint8

CAPTIONS = 64  # of each kind
REPEATS = 2
NULL_CLIPS = 20_000  # most training clips that the null model chooses from
TRAINING_CLIPS = 2_000  # of these, searched for copies together with the null model's choice
READ_AT_ONCE = 64
KINDS = ('seen', 'unseen')


def evaluate_scenes(
  generate: Callable[[Sequence[str]], np.ndarray], config: Any, *, seed: int = 0, num_trained: int = NULL_CLIPS
) -> dict[str, Any]:
  """Return the scores of videos of 64 captions with no withheld phrase, and of 64 captions with one; two of each.

  All scores but `detail` are computed from 16x16 means of larger pictures.

  Args:
    generate: prompts -> videos float `[n t h w 3]` in [-1, 1].
    config: the section `data` of the model's configuration; the reference clips have the same settings.
    seed: of the run; together with `num_trained` it determines which clips the run was trained on.
    num_trained: number of clips the run was trained on.

  Returns:
    The record:
    - `rows`: scores of the `model`; of a `null` model, which returns the training clips that match a caption best; and
      of `real` clips of the captions in held-out handwriting. Each row has `seen` and `unseen`, the shares of
      `scene_reader.score`; `frechet`, the distance to other such clips; `diversity` per prompt; `glyphs`, precision
      and recall of the digits' appearance against held-out digits; `memorisation` of clips and of glyphs; `motion`
      compared to the data's; `detail`, see `metrics.detail`.
    - `metrics`: the model's scores with standard errors over captions.
    - `reader`: accuracy of the scene reader; `weights`: hash of its file.

  Raises:
    ValueError: the model was not trained on such clips with withheld combinations.

  >>> from vdm_jax import configuration
  >>> evaluate_scenes(lambda prompts: None, configuration.default().data)
  Traceback (most recent call last):
  ...
  ValueError: the protocol 'scenes' measures models of two colored digits ...
  """
  _check_data(config)
  evaluator = _Evaluator(config, seed, num_trained)
  rows = {
    'model': evaluator.scores(generate(evaluator.prompts)),
    'null': evaluator.scores(evaluator.null),
    'real': evaluator.scores(evaluator.real),
  }
  return {
    'protocol': SCENES.name,
    'num_videos': len(evaluator.prompts),
    'rows': rows,
    'metrics': {name: {kind: rows['model'][kind][name] for kind in KINDS} for name in rows['model']['seen']}
    | {'frechet': {'test': {'value': rows['model']['frechet'], 'spread': None}}},
    'null_clips': evaluator.null_clips,
    'reader': accuracy(),
    'weights': sha256(WEIGHTS_PATH),
  }


def _check_data(config: Any) -> None:
  modes = config.digits
  if config.name != 'digits' or not (modes.num_digits == 2 and modes.colors and modes.motions and modes.withhold):
    raise ValueError(
      "the protocol 'scenes' measures models of two colored digits with withheld combinations: use a model with "
      'data.name="digits", data.digits.num_digits=2, and colors, motions and withhold True.'
    )
  if modes.random_start or modes.clip_frames or config.frame_skip != 1:
    raise ValueError(
      "the protocol 'scenes' compares motions frame by frame from the wall: use a model with "
      'data.digits.random_start=False, data.digits.clip_frames=0 and data.frame_skip=1.'
    )


class _Evaluator:
  """The prompts, and the clips that videos are compared to: training clips, and two sets in held-out handwriting."""

  def __init__(self, config: Any, seed: int, num_trained: int):
    captions = _captions(config)
    phrases = [parse_caption(caption) for caption in captions]
    self.prompts = captions * REPEATS
    self.real, new = (_held_out(config, phrases * REPEATS, first) for first in (0, len(self.prompts)))
    train, train_captions = trained_clips(config, seed, min(num_trained, NULL_CLIPS))
    self.null_clips = len(train)
    chosen = best_matches(phrases, [parse_caption(caption) for caption in train_captions]).T.ravel()
    self.null = to_float(train[chosen])
    searched = np.union1d(np.arange(min(TRAINING_CLIPS, len(train))), chosen)
    self._phrases, self._new_clips = phrases * REPEATS, new
    readings = _read(new), _read(to_float(train[searched]))
    self._clips, self._train_clips = map(clip_features, readings)
    self._glyphs, self._train_glyphs = map(glyph_features, readings)
    self._motion = motion(to_uint8(new))

  def scores(self, videos: np.ndarray) -> dict[str, Any]:
    """Return the scores of videos of the prompts."""
    reading = _read(videos)
    shares = score(reading, self._phrases)
    right = {name: values.reshape(REPEATS, -1).mean(0) for name, values in shares.items()}  # of each caption
    clips, glyphs = clip_features(reading), glyph_features(reading)
    return {
      kind: {name: _mean(values[part]) for name, values in right.items()}
      for kind, part in zip(KINDS, (slice(0, CAPTIONS), slice(CAPTIONS, None)), strict=True)
    } | {
      'frechet': frechet_distance(clips, self._clips),
      'diversity': {
        'pairwise_per_prompt': neighbors.mean_pairwise(clips, [self.prompts.index(prompt) for prompt in self.prompts]),
        'pairwise': neighbors.mean_pairwise(clips),
      },
      'glyphs': neighbors.precision_recall(glyphs, self._glyphs),
      'memorisation': {
        'clips': neighbors.memorization(clips, self._clips, self._train_clips),
        'glyphs': neighbors.memorization(glyphs, self._glyphs, self._train_glyphs),
      },
      'motion': compare_motion(motion(to_uint8(videos)), self._motion),
      'detail': detail(videos, self._new_clips),
    }


def best_matches(captions: Sequence[Sequence[Phrase]], others: Sequence[Sequence[Phrase]]) -> np.ndarray:
  """Return, for each of n captions, which REPEATS of `others` match it best, best first: int [n REPEATS].

  The best have most phrases in common; among those, most digits, directions and motions of the same color.
  """
  there = _parts(others)
  best = []
  for wanted in _parts(captions):
    same = there[:, :, None] == wanted  # [m p q 4]: phrases of another clip and phrases of this caption
    right = same & same[..., :1]
    worth = 10 * right.all(-1).sum((1, 2)) + right.sum((1, 2, 3))
    best.append(np.argsort(-worth, kind='stable')[:REPEATS])
  return np.array(best)


def _held_out(config: Any, captions: Sequence[Sequence[Phrase]], first: int) -> np.ndarray:
  """A clip of each caption in held-out handwriting, float32 [n t h w c]."""
  source = catalog.build(config, 'test', 0)
  return to_float(np.stack([source.showing(phrases, first + i).video for i, phrases in enumerate(captions)]))


def _captions(config: Any) -> list[str]:
  """CAPTIONS without withheld phrases, then CAPTIONS with one, from test clips of another seed."""
  found: dict[bool, list[str]] = {False: [], True: []}
  count = CAPTIONS
  while min(map(len, found.values())) < CAPTIONS:
    count *= 2
    captions = dict.fromkeys(clip.caption for clip in data.examples(config, 'test', seed=1, count=count))
    found = {kind: [c for c in captions if _is_unseen(parse_caption(c)) == kind][:CAPTIONS] for kind in found}
  return found[False] + found[True]


def _is_unseen(phrases: Sequence[Phrase]) -> bool:
  return any(withheld(phrase) for phrase in phrases)


def _parts(captions: Sequence[Sequence[Phrase]]) -> np.ndarray:
  """Color, digit, direction and motion of n captions of p phrases as integers: [n p 4]."""
  colors = list(COLORS)
  return np.array(
    [
      [(colors.index(p.color), p.digit, DIRECTIONS.index(p.direction), MOTIONS.index(p.motion)) for p in phrases]
      for phrases in captions
    ]
  )


def _mean(shares: np.ndarray) -> dict[str, float]:
  return {'value': float(shares.mean()), 'spread': float(shares.std(ddof=1) / math.sqrt(len(shares)))}


def _read(clips: np.ndarray) -> Reading:
  """The reading of any number of clips, float [n t h w 3], a few at a time."""
  starts = range(0, len(clips), READ_AT_ONCE)
  parts = [read_scenes(clips[start : start + READ_AT_ONCE]) for start in starts]
  return Reading(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


SCENES = Protocol(
  name='scenes',
  source='this library',
  task='captions',
  metrics=(),
  references=('test',),
  height=0,
  width=0,
  num_frames=0,
  num_samples=2 * CAPTIONS * REPEATS,
  num_references=2 * CAPTIONS * REPEATS,
  training_clips=TRAINING_CLIPS,
  notes='64 captions without withheld phrases and 64 with one, two videos of each, scored by the shipped scene reader. '
  'Clips of the size that the run was trained on; the reference is held-out handwriting.',
  evaluate=evaluate_scenes,
  objective=('frechet', 'test'),
)
