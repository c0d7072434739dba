"""The `scenes` protocol: two colored digits, by captions that were trained on and by ones that never were; offline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vdm_jax import data
from vdm_jax.data.digits import Phrase, parse_caption, withheld
from vdm_jax.evaluation import neighbours
from vdm_jax.evaluation.digit_protocol import example_clips
from vdm_jax.evaluation.frechet import frechet_distance
from vdm_jax.evaluation.motion import compare_motion, motion
from vdm_jax.evaluation.scenes import WEIGHTS_PATH, Reading, accuracy, clip_features, glyph_features, read_scenes, score

CAPTIONS = 64  # of each kind, those of the first test clips that have them
REPEATS = 2
TRAINING_CLIPS = 2000  # looked at for memorisation, and what the null model chooses from
READ_AT_ONCE = 64
SEEN, UNSEEN = 'seen', 'unseen'


def evaluate_scenes(generate: Callable[[Sequence[str]], np.ndarray], config: Any) -> dict[str, Any]:
  """Scores videos of 64 captions whose phrases were all trained on, and of 64 with one that was not, two of each.

  Args:
    generate: prompts -> videos float [n t h w 3] in [-1, 1].
    config: the section `data` of the model's configuration; clips of the same settings are the reference.

  Returns:
    `rows`: for the `model`; for the `null` model, which answers with the training clip that shares most with the
    caption; and for `real` clips of held-out glyphs: `seen` and `unseen`, the shares of `scenes.score`; `frechet`,
    the distance to other clips of held-out glyphs; `diversity` per prompt; `glyphs`, precision and recall of the
    digits' looks against held-out glyphs; `memorisation` of clips and of glyphs; `motion` against the data's.
    `metrics`: the model's figures with standard errors over clips. `reader`: the reader's own accuracy.

  Raises ValueError when the model was not trained on such clips with some withheld.
  """
  modes = config.digits
  if config.name != 'digits' or not (modes.num_digits == 2 and modes.colors and modes.motions and modes.withhold):
    raise ValueError(
      "the protocol 'scenes' reads two colored digits, some combinations withheld: it needs a model of "
      'data.name="digits", data.digits.num_digits=2, and colors, motions and withhold True.'
    )
  if modes.random_start or config.frame_skip != 1:
    raise ValueError(
      "the protocol 'scenes' knows motions from the wall on, frame by frame: it needs data.digits.random_start=False "
      'and data.frame_skip=1.'
    )
  judge = _Judge(config)
  rows = {
    'model': judge.assess(generate(judge.prompts)),
    'null': judge.assess(judge.nearest_training_clips()),
    'real': judge.assess(judge.real, judge.real_captions),
  }
  return {
    'protocol': 'scenes',
    'num_videos': len(judge.prompts),
    'rows': rows,
    'metrics': {
      name: {kind: rows['model'][kind][name] for kind in (SEEN, UNSEEN)} for name in rows['model'][SEEN]
    } | {'frechet': {'test': {'value': rows['model']['frechet'], 'spread': None}}},
    'training_clips': TRAINING_CLIPS,
    'reader': accuracy(),
    'weights': hashlib.sha256(WEIGHTS_PATH.read_bytes()).hexdigest(),
  }


class _Judge:
  """Captions and the clips that videos are held against: training clips, and two sets of held-out glyphs."""

  def __init__(self, config: Any):
    self.captions = _captions(config)
    self.prompts = self.captions * REPEATS
    count = len(self.prompts)
    clips, captions = example_clips(config, 'test', 2 * count)
    self.real, self.real_captions = data.to_float(clips[:count]), captions[:count]
    self._train_clips, self._train_captions = example_clips(config, 'train', TRAINING_CLIPS)
    self._held_out, self._train = _read(clips[count:]), _read(self._train_clips)
    self._motion = motion(clips[count:])

  def assess(self, videos: np.ndarray, prompts: Sequence[str] | None = None) -> dict[str, Any]:
    """What is measured of videos of the protocol's prompts, or of others."""
    prompts = self.prompts if prompts is None else prompts
    phrases = _parsed(prompts)
    reading = read_scenes(videos)
    right = score(reading, phrases)
    unseen = np.array([_is_unseen(said) for said in phrases])
    clips, glyphs = clip_features(reading), glyph_features(reading)
    held_out, train = clip_features(self._held_out), clip_features(self._train)
    new_glyphs = glyph_features(self._held_out)
    return {
      SEEN: {name: _mean(shares[~unseen]) for name, shares in right.items()},
      UNSEEN: {name: _mean(shares[unseen]) for name, shares in right.items()},
      'frechet': frechet_distance(clips, held_out),
      'diversity': {
        'pairwise_per_prompt': neighbours.mean_pairwise(clips, [prompts.index(prompt) for prompt in prompts]),
        'pairwise': neighbours.mean_pairwise(clips),
      },
      'glyphs': neighbours.precision_recall(glyphs, new_glyphs),
      'memorisation': {
        'clips': neighbours.memorisation(clips, held_out, train),
        'glyphs': neighbours.memorisation(glyphs, new_glyphs, glyph_features(self._train)),
      },
      'motion': compare_motion(motion(data.to_uint8(videos)), self._motion),
    }

  def nearest_training_clips(self) -> np.ndarray:
    """For every prompt the training clip that shares most of its parts, for its repetition the next one."""
    parts = np.array([_parts(said) for said in _parsed(self._train_captions)])
    chosen = []
    for said in _parsed(self.captions):
      shared = (parts == _parts(said)).sum(1)
      chosen.append(np.argsort(-shared, kind='stable')[:REPEATS])
    return data.to_float(self._train_clips[np.array(chosen).T.ravel()])


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


def _parsed(captions: Sequence[str]) -> list[tuple[Phrase, ...]]:
  return [parse_caption(caption) for caption in captions]


def _parts(phrases: Sequence[Phrase]) -> list[str]:
  return [str(part) for phrase in phrases for part in phrase]


def _mean(shares: np.ndarray) -> dict[str, float]:
  return {'value': float(shares.mean()), 'spread': float(shares.std(ddof=1) / math.sqrt(len(shares)))}


def _read(clips: np.ndarray) -> Reading:
  """Reads many, a few at a time: floats take four times the room."""
  starts = range(0, len(clips), READ_AT_ONCE)
  parts = [read_scenes(data.to_float(clips[start : start + READ_AT_ONCE])) for start in starts]
  return Reading(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
