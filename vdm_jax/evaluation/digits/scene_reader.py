"""Scene reader: for each color in a clip of two digits, which digit has it, and how that digit moves.

A small network reads one frame and one color at a time, as two channels: the part of the pixels that this color's ink
explains, and the rest. It predicts which digit, if any, has the color, and where. The digit of a clip is the vote of
its frames; its motion is the nearest path of `vdm_jax.data.Digits`, from any start. Trained by
`vdm_jax.evaluation.digits.scene_training` on train glyphs; `accuracy()` returns its accuracy on held-out glyphs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange, reduce

from vdm_jax.data.sources.digits import COLORS, DIRECTIONS, MOTIONS, Digits, Phrase
from vdm_jax.evaluation.digits.digit_classifier import (
  SIDE,
  FrameClassifier,
  Weights,
  load_weights,
  read_frames,
  read_record,
)
from vdm_jax.types import Array

WEIGHTS_PATH = Path(__file__).with_name('scene_reader.safetensors')
ABSENT = 10  # class of a color that no digit has
READER = FrameClassifier(classes=11)
INKS = {name: np.float32(color) / 255 for name, color in COLORS.items()}


class Reading(NamedTuple):
  """Outputs of the reader for b clips in each of c colors, in the order of COLORS, as NumPy arrays."""

  present: np.ndarray  # float32 [b c], probability that a digit has the color
  digit: np.ndarray  # int [b c]
  direction: np.ndarray  # int [b c], index into DIRECTIONS, or -1 for a digit that does not move
  motion: np.ndarray  # int [b c], index into MOTIONS, or -1
  glyph: np.ndarray  # float32 [b c d], features of the digit's appearance
  position: np.ndarray  # float32 [b c t 2], center of its box (y, x) in pixels of a 16x16 picture


def read_scenes(videos: Array, *, weights: Weights | None = None) -> Reading:
  """Return what clips show in each color.

  Args:
    videos: float `[b t h h 3]` in [-1, 1], t >= 2, h a multiple of 16. Values outside [-1, 1] are clipped.
    weights: of the network; the shipped ones by default.

  Raises:
    ValueError: another shape or dtype, or values that are not finite.
  """
  pictures = _pictures(videos)
  inks = np.stack([*INKS.values()])[:, None, None, None]
  seen = np.stack(unmixed(pictures[:, None], inks), axis=-1)  # [b c t h w 2]
  weights = weights or _shipped()
  frames = read_frames(READER, weights.params, 2 * rearrange(seen, 'b c t h w x -> (b c t) h w x') - 1)
  logits, features, position = (leaf.reshape(*seen.shape[:3], -1) for leaf in frames)
  log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
  direction, motion = _motions(position, side=np.shape(videos)[2])
  return Reading(
    present=1 - np.exp(log_probs[..., ABSENT]).mean(2),
    digit=log_probs[..., :ABSENT].mean(2).argmax(-1),
    direction=direction,
    motion=motion,
    glyph=(features.mean(2) - weights.feature_mean) / weights.feature_std,
    position=position,
  )


def score(reading: Reading, captions: Sequence[Sequence[Phrase]]) -> dict[str, np.ndarray]:
  """Return how well each clip matches its caption: name -> [b].

  Returns:
    `color`, `digit`, `direction`, `motion`: share of the caption's phrases that are correct in this respect; `phrase`:
    in all four; `clip`: whether all phrases are correct. A phrase whose color is absent is wrong in every respect.

  Raises:
    ValueError: a caption without colors.
  """
  if any(phrase.color is None for phrases in captions for phrase in phrases):
    raise ValueError("scene reader: a caption has no color; pass captions such as 'a red 3 moving left slowly'.")
  color = np.array([[list(COLORS).index(phrase.color) for phrase in phrases] for phrases in captions])
  captioned = {
    'digit': [[phrase.digit for phrase in phrases] for phrases in captions],
    'direction': [[DIRECTIONS.index(phrase.direction) for phrase in phrases] for phrases in captions],
    'motion': [[MOTIONS.index(phrase.motion) for phrase in phrases] for phrases in captions],
  }
  found = {name: np.take_along_axis(getattr(reading, name), color, axis=1) for name in ('present', *captioned)}
  right = {'color': found['present'] > 0.5}
  right |= {name: (found[name] == np.array(wanted)) & right['color'] for name, wanted in captioned.items()}
  right['phrase'] = np.all([*right.values()], axis=0)
  return {name: good.mean(1) for name, good in right.items()} | {'clip': right['phrase'].all(1).astype(float)}


def glyph_features(reading: Reading) -> np.ndarray:
  """Return features of the appearance of all digits in all clips, float32 [n d]; a clip without digits has one row."""
  there = reading.present > np.minimum(0.5, reading.present.max(1, keepdims=True) - 1e-6)
  return reading.glyph[there]


def clip_features(reading: Reading) -> np.ndarray:
  """Return features of clips, float32 [b d].

  For the two most probable colors, in the order of COLORS: the ink, the appearance of the digit, and its position in
  the first, middle and last frame; 0 for absent digits.
  """
  surest = np.sort(np.argsort(-reading.present, axis=1)[:, :2], axis=1)
  rows = np.arange(len(surest))[:, None]
  times = [0, reading.position.shape[2] // 2, -1]
  places = rearrange(reading.position[rows, surest][:, :, times], 'b p t c -> b p (t c)') / (SIDE / 4)
  inks = np.stack([*INKS.values()])[surest] * 2
  parts = np.concatenate([inks, reading.glyph[rows, surest], places], axis=-1)
  return rearrange(parts * (reading.present[rows, surest, None] > 0.5), 'b p d -> b (p d)')


def unmixed(frames: Array, ink: Array) -> tuple[Array, Array]:
  """Return the largest amount of an ink `[... 3]` that pixels `[... 3]` in [0, 1] can contain, and the largest rest."""
  amount = (frames / ink).min(-1).clip(max=1)
  return amount, (frames - amount[..., None] * ink).max(-1)


def accuracy() -> dict[str, float]:
  """Return the accuracy of the shipped reader on clips of held-out glyphs, by `scene_training.measure`."""
  return read_record(WEIGHTS_PATH)


def _motions(position: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Direction and motion [b c] of the path nearest to positions [b c t 2], -1 for no motion."""
  paths = _paths(position.shape[2], side)
  centered = position - position.mean(2, keepdims=True)
  nearest = ((centered[:, :, None] - paths) ** 2).sum((3, 4)).argmin(-1) - 1  # [b c], -1: no motion
  direction, motion = np.divmod(nearest, len(MOTIONS))
  return direction, np.where(nearest < 0, -1, motion)


@functools.cache
def _paths(num_frames: int, side: int) -> np.ndarray:
  """Paths [13 t 2] minus their means, in pixels of a 16x16 picture: no motion, then each direction and motion."""
  source = Digits(split='test', seed=0, num_frames=num_frames, height=side, width=side, motions=True)
  kinds = itertools.product(DIRECTIONS, MOTIONS)
  moving = [source.path(Phrase(0, direction, motion=motion)) for direction, motion in kinds]
  paths = np.stack([np.zeros_like(moving[0]), *moving]) * (SIDE / side)
  return paths - paths.mean(1, keepdims=True)


def _pictures(videos: Array) -> np.ndarray:
  """Check videos and reduce them to float32 [b t 16 16 3] in [0, 1]."""
  videos = np.asarray(videos)
  shape = videos.shape
  if len(shape) != 5 or shape[1] < 2 or shape[2] != shape[3] or shape[2] % SIDE or not shape[2] or shape[4] != 3:
    raise ValueError(
      f'scene reader: videos have shape {shape}; pass [b t h w 3] with 2 or more frames and h = w, a multiple of 16.'
    )
  if not np.issubdtype(videos.dtype, np.floating) or not np.isfinite(videos).all():
    raise ValueError(f'scene reader: videos are {videos.dtype}; pass finite floats in [-1, 1].')
  block = shape[2] // SIDE
  clipped = (np.clip(videos, -1, 1).astype(np.float32) + 1) / 2
  return reduce(clipped, 'b t (h x) (w y) c -> b t h w c', 'mean', x=block, y=block)


@functools.cache
def _shipped() -> Weights:
  return load_weights(WEIGHTS_PATH)
