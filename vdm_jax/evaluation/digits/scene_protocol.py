"""The `scenes` protocol: two colored digits, by captions that were trained on and by ones that never were; offline."""

from __future__ import annotations

import hashlib
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
from vdm_jax.video import to_float, to_uint8

CAPTIONS = 64  # of each kind
REPEATS = 2
NULL_CLIPS = 20_000  # at most so many of those trained on does the null model choose from
TRAINING_CLIPS = 2_000  # of these are looked at for memorisation, beside what the null model chose
READ_AT_ONCE = 64
KINDS = ('seen', 'unseen')


def evaluate_scenes(
  generate: Callable[[Sequence[str]], np.ndarray], config: Any, *, seed: int = 0, num_trained: int = NULL_CLIPS
) -> dict[str, Any]:
  """Scores videos of 64 captions whose phrases were all trained on, and of 64 with one that was not, two of each.

  Args:
    generate: prompts -> videos float [n t h w 3] in [-1, 1].
    config: the section `data` of the model's configuration; clips of the same settings are the reference.
    seed, num_trained: of the run, and how many clips it was trained on: they say which ones.

  Returns:
    `rows`: for the `model`; for the `null` model, which answers with those of the clips trained on that answer the
    caption best; and for `real` clips of the captions in held-out handwriting: `seen` and `unseen`, the shares of
    `scenes.score`; `frechet`, the distance to other such clips; `diversity` per prompt; `glyphs`, precision and recall
    of the digits' looks against held-out ones; `memorisation` of clips and of glyphs; `motion` against the data's. All
    these look at 16x16 means of larger pictures; `detail` is `vdm_jax.evaluation.metrics.detail`.
    `metrics`: the model's figures with standard errors over captions. `reader`: the reader's own accuracy.

  Raises ValueError when the model was not trained on such clips with some withheld.
  """
  modes = config.digits
  if config.name != 'digits' or not (modes.num_digits == 2 and modes.colors and modes.motions and modes.withhold):
    raise ValueError(
      "the protocol 'scenes' reads two colored digits, some combinations withheld: it needs a model of "
      'data.name="digits", data.digits.num_digits=2, and colors, motions and withhold True.'
    )
  if modes.random_start or modes.clip_frames or config.frame_skip != 1:
    raise ValueError(
      "the protocol 'scenes' knows motions from the wall on, frame by frame: it needs data.digits.random_start=False, "
      'data.digits.clip_frames=0 and data.frame_skip=1.'
    )
  judge = _Judge(config, seed, num_trained)
  rows = {
    'model': judge.assess(generate(judge.prompts)),
    'null': judge.assess(judge.null),
    'real': judge.assess(judge.real),
  }
  return {
    'protocol': 'scenes',
    'num_videos': len(judge.prompts),
    'rows': rows,
    'metrics': {name: {kind: rows['model'][kind][name] for kind in KINDS} for name in rows['model']['seen']}
    | {'frechet': {'test': {'value': rows['model']['frechet'], 'spread': None}}},
    'null_clips': judge.null_clips,
    'reader': accuracy(),
    'weights': hashlib.sha256(WEIGHTS_PATH.read_bytes()).hexdigest(),
  }


class _Judge:
  """Prompts and the clips that videos are held against: what was trained on, and two sets in held-out handwriting."""

  def __init__(self, config: Any, seed: int, num_trained: int):
    captions = _captions(config)
    said = [parse_caption(caption) for caption in captions]
    self.prompts = captions * REPEATS
    self.real, new = (_held_out(config, said * REPEATS, first) for first in (0, len(self.prompts)))
    train, train_captions = trained_clips(config, seed, min(num_trained, NULL_CLIPS))
    self.null_clips = len(train)
    chosen = best_answers(said, [parse_caption(caption) for caption in train_captions]).T.ravel()
    self.null = to_float(train[chosen])
    looked_at = np.union1d(np.arange(min(TRAINING_CLIPS, len(train))), chosen)
    self._said, self._new_clips = said * REPEATS, new
    readings = _read(new), _read(to_float(train[looked_at]))
    self._clips, self._train_clips = map(clip_features, readings)
    self._glyphs, self._train_glyphs = map(glyph_features, readings)
    self._motion = motion(to_uint8(new))

  def assess(self, videos: np.ndarray) -> dict[str, Any]:
    """What is measured of videos of the prompts."""
    reading = _read(videos)
    right = {
      name: shares.reshape(REPEATS, -1).mean(0) for name, shares in score(reading, self._said).items()
    }  # of each caption
    clips, glyphs = clip_features(reading), glyph_features(reading)
    return {
      kind: {name: _mean(shares[part]) for name, shares in right.items()}
      for kind, part in zip(KINDS, (slice(0, CAPTIONS), slice(CAPTIONS, None)), strict=True)
    } | {
      'frechet': frechet_distance(clips, self._clips),
      'diversity': {
        'pairwise_per_prompt': neighbors.mean_pairwise(clips, [self.prompts.index(prompt) for prompt in self.prompts]),
        'pairwise': neighbors.mean_pairwise(clips),
      },
      'glyphs': neighbors.precision_recall(glyphs, self._glyphs),
      'memorisation': {
        'clips': neighbors.memorisation(clips, self._clips, self._train_clips),
        'glyphs': neighbors.memorisation(glyphs, self._glyphs, self._train_glyphs),
      },
      'motion': compare_motion(motion(to_uint8(videos)), self._motion),
      'detail': detail(videos, self._new_clips),
    }


def best_answers(captions: Sequence[Sequence[Phrase]], others: Sequence[Sequence[Phrase]]) -> np.ndarray:
  """For each of n captions the REPEATS of `others` that `scenes.score` would rate best, best first: int [n REPEATS].

  They have most phrases right; of equal ones most digits, directions and motions of the colors that are asked for.
  """
  there = _parts(others)
  best = []
  for wanted in _parts(captions):
    same = there[:, :, None] == wanted  # [m p q 4]: a phrase of another clip against one that is wanted
    right = same & same[..., :1]
    worth = 10 * right.all(-1).sum((1, 2)) + right.sum((1, 2, 3))
    best.append(np.argsort(-worth, kind='stable')[:REPEATS])
  return np.array(best)


def _held_out(config: Any, said: Sequence[Sequence[Phrase]], first: int) -> np.ndarray:
  """A clip of each caption in held-out handwriting, float32 [n t h w c]."""
  source = catalog.build(config, 'test', 0)
  return to_float(np.stack([source.showing(phrases, first + i).video for i, phrases in enumerate(said)]))


def _captions(config: Any) -> list[str]:
  """CAPTIONS that are seen in training, then CAPTIONS that are not, as test clips of another seed have them."""
  found: dict[bool, list[str]] = {False: [], True: []}
  count = CAPTIONS
  while min(map(len, found.values())) < CAPTIONS:
    count *= 2
    captions = dict.fromkeys(clip.caption for clip in data.examples(config, 'test', seed=1, count=count))
    found = {kind: [c for c in captions if _is_unseen(parse_caption(c)) == kind][:CAPTIONS] for kind in found}
  return found[False] + found[True]


def _is_unseen(phrases: Sequence[Phrase]) -> bool:
  return any(withheld(phrase) for phrase in phrases)


def _parts(said: Sequence[Sequence[Phrase]]) -> np.ndarray:
  """The parts of n captions of p phrases as numbers, the color first: int [n p 4]."""
  colors = list(COLORS)
  return np.array(
    [
      [(colors.index(p.color), p.digit, DIRECTIONS.index(p.direction), MOTIONS.index(p.motion)) for p in phrases]
      for phrases in said
    ]
  )


def _mean(shares: np.ndarray) -> dict[str, float]:
  return {'value': float(shares.mean()), 'spread': float(shares.std(ddof=1) / math.sqrt(len(shares)))}


def _read(clips: np.ndarray) -> Reading:
  """Reads many, float [n t h w 3], a few at a time."""
  starts = range(0, len(clips), READ_AT_ONCE)
  parts = [read_scenes(clips[start : start + READ_AT_ONCE]) for start in starts]
  return Reading(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
