"""The judge of clips of two digits: of each color, which digit has it, and how does that digit move?

A small network looks at one frame and one color at a time, at the ink that this color explains and at the rest. It says
which digit has the color, if any has, and where it is. A digit is the vote of its frames, a motion the path of
`vdm_jax.data.Digits` that comes nearest, wherever it begins. Trained by `vdm_jax.evaluation.digits.scene_training` on
train glyphs; `accuracy()` is what it reached on the held-out ones.
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
  FrameReader,
  Weights,
  load_weights,
  read_frames,
  read_record,
)
from vdm_jax.types import Array

WEIGHTS_PATH = Path(__file__).with_name('scene_reader.safetensors')
ABSENT = 10  # the class of a color that no digit has
READER = FrameReader(classes=11)
INKS = {name: np.float32(color) / 255 for name, color in COLORS.items()}


class Reading(NamedTuple):
  """What is seen of each of c colors, COLORS in their order, in each of b clips; numpy arrays."""

  present: np.ndarray  # float32 [b c], how sure it is that a digit has the color
  digit: np.ndarray  # int [b c]
  direction: np.ndarray  # int [b c], index into DIRECTIONS, or -1 for one that stays where it is
  motion: np.ndarray  # int [b c], index into MOTIONS, or -1
  glyph: np.ndarray  # float32 [b c d], features of the digit's looks
  position: np.ndarray  # float32 [b c t 2], centre of its box (y, x) in pixels of a 16x16 picture


def read_scenes(videos: Array, *, weights: Weights | None = None) -> Reading:
  """Reads clips, float `[b t h h 3]` in [-1, 1] with h a multiple of 16, for every color.

  Values outside of [-1, 1] are clipped. `weights`: the shipped ones if None. Raises ValueError on other shapes and NaN.
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
  """Of each clip [b] the share of phrases whose color, digit, direction and motion are as said, and all four of them
  (`phrase`); and whether everything is (`clip`).

  A digit of which nothing has the color is wrong in all. Raises ValueError for captions that name no colors.
  """
  if any(phrase.color is None for phrases in captions for phrase in phrases):
    raise ValueError("scene reader: a caption names no color, which tells digits apart; 'a red 3 moving left slowly'.")
  color = np.array([[list(COLORS).index(phrase.color) for phrase in phrases] for phrases in captions])
  told = {
    'digit': [[phrase.digit for phrase in phrases] for phrases in captions],
    'direction': [[DIRECTIONS.index(phrase.direction) for phrase in phrases] for phrases in captions],
    'motion': [[MOTIONS.index(phrase.motion) for phrase in phrases] for phrases in captions],
  }
  found = {name: np.take_along_axis(getattr(reading, name), color, axis=1) for name in ('present', *told)}
  right = {'color': found['present'] > 0.5}
  right |= {name: (found[name] == np.array(said)) & right['color'] for name, said in told.items()}
  right['phrase'] = np.all([*right.values()], axis=0)
  return {name: good.mean(1) for name, good in right.items()} | {'clip': right['phrase'].all(1).astype(float)}


def glyph_features(reading: Reading) -> np.ndarray:
  """float32 [n d]: looks of all digits that are there, of all clips; of the surest color where a clip has none."""
  there = reading.present > np.minimum(0.5, reading.present.max(1, keepdims=True) - 1e-6)
  return reading.glyph[there]


def clip_features(reading: Reading) -> np.ndarray:
  """float32 [b d]: of the two surest colors, in the order of COLORS, the ink, the looks of the digit, and where it is
  at the beginning, in the middle and at the end; 0 for what is not there."""
  surest = np.sort(np.argsort(-reading.present, axis=1)[:, :2], axis=1)
  rows = np.arange(len(surest))[:, None]
  times = [0, reading.position.shape[2] // 2, -1]
  places = rearrange(reading.position[rows, surest][:, :, times], 'b p t c -> b p (t c)') / (SIDE / 4)
  inks = np.stack([*INKS.values()])[surest] * 2
  parts = np.concatenate([inks, reading.glyph[rows, surest], places], axis=-1)
  return rearrange(parts * (reading.present[rows, surest, None] > 0.5), 'b p d -> b (p d)')


def unmixed(frames: Array, ink: Array) -> tuple[Array, Array]:
  """How much of an ink `[... 3]` there can be in pixels `[... 3]` in [0, 1], and the most that is left of a channel."""
  amount = (frames / ink).min(-1).clip(max=1)
  return amount, (frames - amount[..., None] * ink).max(-1)


def accuracy() -> dict[str, float]:
  """The shipped reader's own measurement on clips of held-out glyphs, by `scene_training.measure`."""
  return read_record(WEIGHTS_PATH)


def _motions(position: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Direction and motion [b c] of the path that is nearest to positions [b c t 2], -1 where that is to stay."""
  paths = _paths(position.shape[2], side)
  centred = position - position.mean(2, keepdims=True)
  nearest = ((centred[:, :, None] - paths) ** 2).sum((3, 4)).argmin(-1) - 1  # [b c], -1: the path that stays
  direction, motion = np.divmod(nearest, len(MOTIONS))
  return direction, np.where(nearest < 0, -1, motion)


@functools.cache
def _paths(num_frames: int, side: int) -> np.ndarray:
  """Paths [13 t 2] about their means, in pixels of a 16x16 picture: to stay, then every direction in every motion."""
  source = Digits(split='test', seed=0, num_frames=num_frames, height=side, width=side, motions=True)
  kinds = itertools.product(DIRECTIONS, MOTIONS)
  moving = [source.path(Phrase(0, direction, motion=motion)) for direction, motion in kinds]
  paths = np.stack([np.zeros_like(moving[0]), *moving]) * (SIDE / side)
  return paths - paths.mean(1, keepdims=True)


def _pictures(videos: Array) -> np.ndarray:
  """Checks videos and reduces them to float32 [b t 16 16 3] in [0, 1]."""
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
