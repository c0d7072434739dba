"""Digit classifier: which digit a clip shows, and in which direction it moves.

A small network reads one frame at a time: the digit, and its position in pixels. The digit of a clip is the vote of its
frames. Its direction is that of the straight line through its positions, so a reversed clip moves the opposite way by
construction and a frozen one does not move. Trained by `vdm_jax.evaluation.digits.digit_training` on the train glyphs
of `vdm_jax.data.sources.digits`; `accuracy()` returns its accuracy on the held-out glyphs.
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
SIDE = 16  # pixels per side of the network's input; larger pictures are averaged down to it
SIDES = (16, 32, 64)
STILL = -1  # direction of a clip that moves less than MIN_TRAVEL
MIN_TRAVEL = 0.5  # pixels at 16x16 from first to last frame; the slowest clip of the data set travels 1
CHUNK = 256  # frames per call of the network, a constant so that it compiles once
CAPTION = re.compile(rf'a (?:(?:{"|".join(COLORS)}) )?([0-9]) moving ({"|".join(DIRECTIONS)})')


class Frames(NamedTuple):
  """Outputs of the network for n frames."""

  logits: Array  # float32 [n 10], digit
  features: Array  # float32 [n f]
  position: Array  # float32 [n 2], center of the digit's box, (y, x) in pixels of the 16x16 picture


class FrameClassifier(nn.Module):
  """Network from frames `[n 16 16]` or `[n 16 16 c]` in [-1, 1] to Frames.

  Convolutions on 2x2 patches, then two attention maps: one pools features for the digit, one locates it.
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
    for _ in range(2):  # each cell then sees 14 pixels: the whole digit, wherever it is
      x = x + nn.gelu(conv()(nn.LayerNorm()(x)))
    x = nn.LayerNorm()(x).reshape(-1, half * half, self.width)
    read, locate = jnp.moveaxis(nn.softmax(dense(2)(x), axis=1), -1, 0)
    features = nn.gelu(dense(self.features)(jnp.einsum('np,npc->nc', read, x, precision='highest')))
    centers = jnp.stack(jnp.meshgrid(*2 * [2 * jnp.arange(half) + 0.5], indexing='ij'), axis=-1).reshape(-1, 2)
    position = jnp.einsum('np,npc->nc', locate, centers + dense(2)(x), precision='highest')
    return Frames(dense(self.classes)(features), features, position)


class Weights(NamedTuple):
  """Parameters of the network, with mean and scale of the clip features on clean training clips."""

  params: Params
  feature_mean: np.ndarray  # float32 [d]
  feature_std: np.ndarray  # float32 [d]


class Scores(NamedTuple):
  """Outputs of the classifier for b clips, as NumPy arrays.

  >>> import numpy as np
  >>> read_clips(np.full((1, 8, 16, 16, 1), -1.0)).direction == STILL  # an empty clip
  array([ True])
  """

  digit: np.ndarray  # int [b], the vote: argmax of the mean of the frames' log-probabilities
  frame_digits: np.ndarray  # int [b t], the digit of each frame
  frame_log_probs: np.ndarray  # float32 [b t 10]
  direction: np.ndarray  # int [b], index into DIRECTIONS, or STILL
  direction_logits: np.ndarray  # float32 [b 4], travel from first to last frame toward each of DIRECTIONS, in pixels
  features: np.ndarray  # float32 [b d], for a Fréchet distance; about unit variance on clean training clips
  frame_features: np.ndarray  # float32 [b t f], of single frames


def read_clips(videos: Array, *, weights: Weights | None = None) -> Scores:
  """Return what clips of one digit each show.

  The features of a clip are: the mean of the frame features over time, their mean absolute change from frame to frame,
  mean position, travel, and distance from a straight path.

  Args:
    videos: float `[b t h w c]` in [-1, 1], t >= 2, h = w of 16, 32 or 64, c of 1 or 3. Values outside [-1, 1] are
      clipped. Color becomes gray by the maximum over channels, which makes all inks of the data set about equally
      bright. Pictures are averaged down to 16x16.
    weights: of the network; the shipped ones by default.

  Raises:
    ValueError: another shape or dtype, or values that are not finite.

  >>> from vdm_jax.data import Digits
  >>> from vdm_jax.video import to_float
  >>> clip = Digits(split='test', seed=0)[0]
  >>> scores = read_clips(to_float(clip.video)[None])
  >>> f'a {scores.digit[0]} moving {DIRECTIONS[scores.direction[0]]}' == clip.caption
  True
  """
  gray = _gray(videos)
  weights = weights or _shipped()
  b, t = gray.shape[:2]
  frames = read_frames(FrameClassifier(), weights.params, gray.reshape(-1, SIDE, SIDE))
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
  """Return how well clips match their captions.

  Args:
    videos: as in `read_clips`.
    captions: `a <0-9> moving <left|right|up|down>`, with or without a color, which is ignored.
    reference: features `[n d]` of real clips, `read_clips(...).features`.

  Returns:
    `digit`: digit accuracy, the share of clips whose voted digit is the caption's; chance is 0.1. `direction`:
    direction accuracy; a still clip is wrong; chance is at most 0.25. `frame_consistency`: share of frames that show
    the voted digit of their clip. `frechet`: Fréchet distance of the clips' features to `reference`, if given.

  Raises:
    ValueError: a caption of another kind, or another number of captions than videos.

  >>> from vdm_jax.data import Digits
  >>> from vdm_jax.video import to_float
  >>> clip = Digits(split='test', seed=0)[0]
  >>> score(to_float(clip.video)[None], [clip.caption])['direction']
  1.0
  """
  wanted = np.array([parse_caption(caption) for caption in captions]).reshape(-1, 2)
  if len(wanted) != len(videos):
    raise ValueError(
      f'digit classifier: {len(videos)} videos but {len(captions)} captions; pass one caption per video.'
    )
  return score_read(read_clips(videos), wanted, reference)


def score_read(read: Scores, wanted: Array, reference: Array | None = None) -> dict[str, float]:
  """Return what `score` does, for clips already read; `wanted` int `[b 2]` is the digit and direction of each."""
  result = {
    'digit': float((read.digit == wanted[:, 0]).mean()),
    'direction': float((read.direction == wanted[:, 1]).mean()),
    'frame_consistency': float((read.frame_digits == read.digit[:, None]).mean()),
  }
  if reference is not None:
    result['frechet'] = frechet_distance(read.features, reference)
  return result


def parse_caption(caption: str) -> tuple[int, int]:
  """Return the digit of a caption, and its direction as an index into DIRECTIONS.

  Raises:
    ValueError: the caption is not that of one digit on a straight path.

  >>> parse_caption('a 3 moving left')
  (3, 0)
  """
  match = CAPTION.fullmatch(caption)
  if match is None:
    raise ValueError(
      f'digit classifier: {caption!r} is not a valid caption; pass captions of one digit on a straight path, '
      "'a <0-9> moving <left|right|up|down>', with or without a color before the digit."
    )
  return int(match[1]), DIRECTIONS.index(match[2])


def accuracy() -> dict[str, float]:
  """Return the accuracy of the shipped classifier on clean clips of held-out glyphs, by `digit_training.measure`.

  >>> accuracy()['digit'] > 0.98
  True
  """
  return read_record(WEIGHTS_PATH)


def _line(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Least-squares line through positions [b t 2]: travel [b 2] from first to last frame, r.m.s. residual [b 1]."""
  t = position.shape[1]
  time = np.arange(t) / (t - 1) - 0.5
  centered = position - position.mean(1, keepdims=True)
  travel = np.einsum('t,btc->bc', time, centered) / (time**2).sum()
  residual = centered - time[:, None] * travel[:, None]
  return travel, np.sqrt((residual**2).sum(-1).mean(1, keepdims=True))


def _gray(videos: Array) -> np.ndarray:
  """Check videos [b t h w c] and reduce them to float32 [b t 16 16]."""
  videos = np.asarray(videos)
  shape = videos.shape
  good = len(shape) == 5 and shape[1] >= 2 and shape[2] == shape[3] and shape[2] in SIDES and shape[4] in (1, 3)
  if not good:
    raise ValueError(
      f'digit classifier: videos have shape {shape}; pass [b t h w c] with 2 or more frames, h = w of 16, 32 or 64, '
      'and 1 or 3 channels.'
    )
  if not np.issubdtype(videos.dtype, np.floating):
    raise ValueError(f'digit classifier: videos are {videos.dtype}; pass float32 in [-1, 1] (uint8: x / 127.5 - 1).')
  if not np.isfinite(videos).all():
    raise ValueError('digit classifier: videos contain NaN or infinity; check the sampler that made them.')
  gray = np.clip(videos.astype(np.float32), -1, 1).max(-1)
  b, t, side = gray.shape[:3]
  block = side // SIDE
  return gray.reshape(b, t, SIDE, block, SIDE, block).mean((3, 5))


def read_frames(network: FrameClassifier, params: Params, frames: np.ndarray) -> Frames:
  """Return a network's outputs for float32 [n 16 16] or [n 16 16 c] as NumPy arrays; runs in chunks of CHUNK frames."""
  padded = np.pad(frames, ((0, -len(frames) % CHUNK), *((0, 0),) * (frames.ndim - 1)))
  chunks = [_read_chunk(network, params, chunk) for chunk in padded.reshape(-1, CHUNK, *frames.shape[1:])]
  if not chunks:
    raise ValueError('digit classifier: there are no videos; pass one or more.')
  return Frames(*(np.concatenate(leaves)[: len(frames)] for leaves in zip(*chunks, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
def _read_chunk(network: FrameClassifier, params: Params, frames: Array) -> Frames:
  return network.apply(params, frames)


def save_weights(path: Path, weights: Weights, record: dict[str, float]) -> None:
  """Write weights and their accuracy record to a safetensors file; equal inputs give equal bytes."""
  tensors = traverse_util.flatten_dict(weights._asdict(), sep='/')
  tensors = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in tensors.items()}
  path.write_bytes(save(tensors, metadata={'accuracy': json.dumps(record)}))


def load_weights(path: Path) -> Weights:
  """Return the weights in a file of `save_weights`. Raises FileNotFoundError if it does not exist."""
  if not path.exists():
    raise FileNotFoundError(
      f'there are no weights at {path}; train them with python -m vdm_jax.evaluation.digits.digit_training, or '
      'scene_training for the scene reader.'
    )
  with safe_open(path, framework='numpy') as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
  return Weights(**traverse_util.unflatten_dict(tensors, sep='/'))


@functools.cache
def _shipped() -> Weights:
  return load_weights(WEIGHTS_PATH)


def read_record(path: Path) -> dict[str, float]:
  """Return the accuracy record in a file of `save_weights`."""
  with safe_open(path, framework='numpy') as file:
    return json.loads(file.metadata()['accuracy'])
