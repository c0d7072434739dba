"""The judge of the digit model: which digit does each frame of a clip show, and where does it move?

A small network reads one frame at a time: its digit, and the position of that digit in pixels. A clip's digit is the
vote of its frames, its direction the straight line through its positions, so that a clip played backwards moves the
opposite way by construction and a frozen one does not move. Trained by `vdm_jax.evaluation.digits.digit_training` on
the train glyphs of `vdm_jax.data.sources.digits`; `accuracy()` is what it reached on the held-out ones.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save

from vdm_jax.data.sources.digits import COLORS, DIRECTIONS
from vdm_jax.evaluation.metrics.frechet import frechet_distance
from vdm_jax.types import Array, Params

WEIGHTS_PATH = Path(__file__).with_name('digit_scorer.safetensors')
SIDE = 16  # the network's pictures are 16x16; larger ones are averaged down to it
SIDES = (16, 32, 64)
STILL = -1  # the direction of a clip that moves less than MIN_TRAVEL
MIN_TRAVEL = 0.5  # pixels at 16x16 from first frame to last; the slowest clip of the data set travels one
CHUNK = 256  # frames per call of the network, always the same, so that it compiles once
CAPTION = re.compile(rf'a (?:(?:{"|".join(COLORS)}) )?([0-9]) moving ({"|".join(DIRECTIONS)})')


class Frames(NamedTuple):
  """What the network sees in each of n frames."""

  logits: Array  # float32 [n 10], digit
  features: Array  # float32 [n f]
  position: Array  # float32 [n 2], centre of the digit's box, (y, x) in pixels of the 16x16 picture


class FrameReader(nn.Module):
  """Reads frames `[n 16 16]` or `[n 16 16 c]` in [-1, 1].

  Convolutions on 2x2 patches, then two attention maps: one pools the cells that tell the digit, one finds its place.
  """

  width: int = 48
  features: int = 48
  classes: int = 10

  @nn.compact
  def __call__(self, frames: Array) -> Frames:
    half = SIDE // 2
    x = (frames + 1) / 2  # background 0, like the padding of the convolutions
    x = x.reshape(len(x), half, 2, half, 2, -1).swapaxes(2, 3).reshape(len(x), half, half, -1)
    conv = functools.partial(nn.Conv, self.width, (3, 3), precision='highest')
    dense = functools.partial(nn.Dense, precision='highest')
    x = nn.gelu(conv()(x))
    for _ in range(2):  # then each cell sees 14 pixels: the whole digit, wherever it is
      x = x + nn.gelu(conv()(nn.LayerNorm()(x)))
    x = nn.LayerNorm()(x).reshape(-1, half * half, self.width)
    read, locate = jnp.moveaxis(nn.softmax(dense(2)(x), axis=1), -1, 0)
    features = nn.gelu(dense(self.features)(jnp.einsum('np,npc->nc', read, x, precision='highest')))
    centres = jnp.stack(jnp.meshgrid(*2 * [2 * jnp.arange(half) + 0.5], indexing='ij'), axis=-1).reshape(-1, 2)
    position = jnp.einsum('np,npc->nc', locate, centres + dense(2)(x), precision='highest')
    return Frames(dense(self.classes)(features), features, position)


class Weights(NamedTuple):
  """The trained network, and the scale of the clip features on clean training clips."""

  params: Params
  feature_mean: np.ndarray  # float32 [d]
  feature_std: np.ndarray  # float32 [d]


class Scores(NamedTuple):
  """What the scorer reads in each of b clips; numpy arrays."""

  digit: np.ndarray  # int [b], the vote: argmax of the mean of the frames' log-probabilities
  frame_digits: np.ndarray  # int [b t], each frame's own digit
  frame_log_probs: np.ndarray  # float32 [b t 10]
  direction: np.ndarray  # int [b], index into DIRECTIONS, or STILL
  direction_logits: np.ndarray  # float32 [b 4], travel from first to last frame towards each of DIRECTIONS, in pixels
  features: np.ndarray  # float32 [b d], for a Frechet distance; about unit variance on clean training clips
  frame_features: np.ndarray  # float32 [b t f], of each frame alone


def read_clips(videos: Array, *, weights: Weights | None = None) -> Scores:
  """Reads clips of one digit each: float `[b t h w c]` in [-1, 1], t >= 2, h = w of 16, 32 or 64, c of 1 or 3.

  Values outside of [-1, 1] are clipped, colour becomes grey by the maximum over channels (all inks of the data set
  then are about equally bright), and larger pictures become 16x16 by averaging. `weights`: the shipped ones if None.
  Features are, per clip: the mean of the frame features over time, the mean absolute change of them from frame to
  frame, mean position, travel, and distance from a straight path. Raises ValueError on other shapes, dtypes, NaN.
  """
  grey = _grey(videos)
  weights = weights or _shipped()
  b, t = grey.shape[:2]
  frames = read_frames(FrameReader(), weights.params, grey.reshape(-1, SIDE, SIDE))
  logits, features, position = (leaf.reshape(b, t, -1) for leaf in frames)
  log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
  travel, wobble = _line(position)
  toward = np.stack((-travel[:, 1], travel[:, 1], -travel[:, 0], travel[:, 0]), axis=1)
  change = np.abs(np.diff(features, axis=1)).mean(1)
  clip = np.concatenate((features.mean(1), change, position.mean(1), travel, wobble), axis=1)
  return Scores(
    digit=log_probs.mean(1).argmax(-1),
    frame_digits=log_probs.argmax(-1),
    frame_log_probs=log_probs,
    direction=np.where(toward.max(1) < MIN_TRAVEL, STILL, toward.argmax(1)),
    direction_logits=toward,
    features=(clip - weights.feature_mean) / weights.feature_std,
    frame_features=features,
  )


def score(videos: Array, captions: Sequence[str], *, reference: Array | None = None) -> dict[str, float]:
  """Judges clips (see `read_clips`) by their captions, `a <0-9> moving <left|right|up|down>`, with or without a colour.

  digit: share of clips whose voted digit is the caption's. direction: likewise; a still clip is wrong. Chance is 0.1
  and at most 0.25. frame_consistency: share of frames whose own digit is the clip's voted one. frechet: distance of
  the clips' features to `reference`, features `[n d]` of real clips (`read_clips(...).features`); only when given.
  Colours are not judged. Raises ValueError on captions of other kinds, naming the first of them.
  """
  wanted = np.array([parse_caption(caption) for caption in captions]).reshape(-1, 2)
  if len(wanted) != len(videos):
    raise ValueError(f'digit scorer: {len(videos)} videos but {len(captions)} captions; pass one caption per video.')
  return score_read(read_clips(videos), wanted, reference)


def score_read(read: Scores, wanted: Array, reference: Array | None = None) -> dict[str, float]:
  """`score` of clips that are read already, by the digit and direction int `[b 2]` that each is to show."""
  result = {
    'digit': float((read.digit == wanted[:, 0]).mean()),
    'direction': float((read.direction == wanted[:, 1]).mean()),
    'frame_consistency': float((read.frame_digits == read.digit[:, None]).mean()),
  }
  if reference is not None:
    result['frechet'] = frechet_distance(read.features, reference)
  return result


def parse_caption(caption: str) -> tuple[int, int]:
  """`a 3 moving left` -> (3, 0): the digit and the index into DIRECTIONS. Raises ValueError on other captions."""
  match = CAPTION.fullmatch(caption)
  if match is None:
    raise ValueError(
      f'digit scorer: cannot judge the caption {caption!r}; it reads clips of one digit moving straight, '
      "'a <0-9> moving <left|right|up|down>', with or without a colour before the digit."
    )
  return int(match[1]), DIRECTIONS.index(match[2])


def accuracy() -> dict[str, float]:
  """The shipped scorer's own measurement on clean clips of held-out glyphs, by `digit_training.measure`."""
  return read_record(WEIGHTS_PATH)


def _line(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Least squares through positions [b t 2]: travel [b 2] from first frame to last, r.m.s. distance [b 1] from it."""
  t = position.shape[1]
  time = np.arange(t) / (t - 1) - 0.5
  centred = position - position.mean(1, keepdims=True)
  travel = np.einsum('t,btc->bc', time, centred) / (time**2).sum()
  residual = centred - time[:, None] * travel[:, None]
  return travel, np.sqrt((residual**2).sum(-1).mean(1, keepdims=True))


def _grey(videos: Array) -> np.ndarray:
  """Checks videos [b t h w c] and reduces them to float32 [b t 16 16]."""
  videos = np.asarray(videos)
  shape = videos.shape
  good = len(shape) == 5 and shape[1] >= 2 and shape[2] == shape[3] and shape[2] in SIDES and shape[4] in (1, 3)
  if not good:
    raise ValueError(
      f'digit scorer: videos have shape {shape}; pass [b t h w c] with 2 or more frames, h = w of 16, 32 or 64, '
      'and 1 or 3 channels.'
    )
  if not np.issubdtype(videos.dtype, np.floating):
    raise ValueError(f'digit scorer: videos are {videos.dtype}; pass float32 in [-1, 1] (uint8: x / 127.5 - 1).')
  if not np.isfinite(videos).all():
    raise ValueError('digit scorer: videos hold NaN or infinity; look at the sampler that made them.')
  grey = np.clip(videos.astype(np.float32), -1, 1).max(-1)
  b, t, side, _ = grey.shape
  block = side // SIDE
  return grey.reshape(b, t, SIDE, block, SIDE, block).mean((3, 5))


def read_frames(network: FrameReader, params: Params, frames: np.ndarray) -> Frames:
  """Runs a network on float32 [n 16 16] or [n 16 16 c] in chunks of one size; numpy leaves."""
  padded = np.pad(frames, ((0, -len(frames) % CHUNK), *((0, 0),) * (frames.ndim - 1)))
  chunks = [_read_chunk(network, params, chunk) for chunk in padded.reshape(-1, CHUNK, *frames.shape[1:])]
  if not chunks:
    raise ValueError('digit scorer: there are no videos; pass one or more.')
  return Frames(*(np.concatenate(leaves)[: len(frames)] for leaves in zip(*chunks, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
def _read_chunk(network: FrameReader, params: Params, frames: Array) -> Frames:
  return network.apply(params, frames)


def save_weights(path: Path, weights: Weights, record: dict[str, float]) -> None:
  """Writes weights and their accuracy record to a safetensors file; equal inputs give equal bytes."""
  tensors = traverse_util.flatten_dict(weights._asdict(), sep='/')
  tensors = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in tensors.items()}
  path.write_bytes(save(tensors, metadata={'accuracy': json.dumps(record)}))


def load_weights(path: Path) -> Weights:
  """Reads what `save_weights` wrote. Raises FileNotFoundError when there is no such file."""
  if not path.exists():
    raise FileNotFoundError(
      f'digit scorer: there are no weights at {path}; make them with '
      'python -m vdm_jax.evaluation.digits.digit_training.'
    )
  with safe_open(path, framework='numpy') as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
  return Weights(**traverse_util.unflatten_dict(tensors, sep='/'))


@functools.cache
def _shipped() -> Weights:
  return load_weights(WEIGHTS_PATH)


def read_record(path: Path) -> dict[str, float]:
  """The record that `save_weights` wrote beside the weights."""
  with safe_open(path, framework='numpy') as file:
    return json.loads(file.metadata()['accuracy'])
