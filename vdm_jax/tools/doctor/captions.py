"""Whether captions fit their clips, as far as that can be told without knowing what words mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.tools.doctor.symptoms import Fault
from vdm_jax.video import to_float

COUNT = 512  # clips that are looked at
CERTAIN = 0.01  # chance at which shuffled captions would fit as well as these
# The share of what differs between clips that captions explain where they fit, in the view that shows it best. Those of
# the embedded digits explain 0.07 (nothing but the speed is told) to 0.98 (the colour is) in 512 clips.
FITTING = 0.05
PERMUTATIONS = 1_000
DIRECTIONS = 64  # in which a view differs most


def examine(config: ConfigDict) -> tuple[Fault | None, str]:
  """What `judge` says of the training clips of a configuration, which are read one at a time."""
  clips = data.ExampleClips(config.data, 'train', seed=config.seed)
  videos, captions = [], []
  for index in clips.first(COUNT):
    clip = clips[index]
    videos.append(_shrunk(to_float(clip.video)))
    captions.append(clip.caption or '')
  return judge(np.stack(videos), captions)


def judge(videos: np.ndarray, captions: Sequence[str], *, seed: int = 0) -> tuple[Fault | None, str]:
  """Whether clips `[n t h w c]` are more alike where their captions are, in any of several views, and a line on it.

  The measure is the share of the differences that captions' words explain linearly (redundancy analysis), less what
  shuffled captions explain; the view that stands out most counts. That nothing is found is no fault, for the views may
  miss what captions tell, or the clips be too few: one is named only where in each view the words explain less than
  FITTING, with a margin of two standard deviations.
  """
  distinct = len(set(captions))
  said = f'captions: {distinct} of {len(captions)} clips'
  words = _words(captions)
  if not words.size:
    return None, said
  if len(captions) < 2 * words.shape[1]:
    return None, f'{said}, too few clips for so many words to measure whether they fit'
  likely, at_most = _alignment(videos, words, seed)
  if likely < CERTAIN:
    return None, f'{said}, which fit (p = {likely:.2g})'
  if at_most >= FITTING:
    return None, f'{said}; whether they fit cannot be told (p = {likely:.2g})'
  return Fault(
    'shuffled captions',
    f'in {len(captions)} clips with {distinct} captions, those of similar captions are no more alike than chance has '
    f'it (p = {likely:.2g}): captions explain at most {at_most:.1%} of what differs between clips in place, pattern, '
    'motion or colour. Check that each clip has its own caption.',
  ), said


def _alignment(videos: np.ndarray, words: np.ndarray, seed: int) -> tuple[float, float]:
  """The chance that shuffled captions explain as much of some view, and the most that these may explain of any."""
  rng = np.random.default_rng((seed, len(words)))
  orders = np.stack([np.arange(len(words)), *(rng.permutation(len(words)) for _ in range(PERMUTATIONS))])
  views = [view for view in _views(videos) if np.ptp(view, axis=0).any()]
  if not views:
    return 1.0, 1.0
  shares = _explained(views, words, orders)
  found, chance = shares[:, 0], shares[:, 1:]
  mean, deviation = chance.mean(1), chance.std(1)
  most = ((chance - mean[:, None]) / deviation[:, None]).max(0)
  likely = (1 + np.sum(most >= ((found - mean) / deviation).max())) / (1 + PERMUTATIONS)
  return float(likely), float(((found - mean + 2 * deviation) / (1 - mean)).max())


def _views(videos: np.ndarray) -> list[np.ndarray]:
  """`[n ...]` each: where things are; what they are and how they move, wherever they are; their colour."""
  small = _shrunk(videos)
  grey = small.mean(-1)
  return [
    _shrunk(videos, frames=4, side=8),
    _amplitudes(grey, (2, 3)).mean(1),
    _amplitudes(grey, (1, 2, 3)),
    small.mean((1, 2, 3)),
  ]


def _shrunk(videos: np.ndarray, frames: int = 8, side: int = 32) -> np.ndarray:
  """At most so many frames of `[... t h w c]`, in at most `side` x `side` means."""
  length = videos.shape[-4]
  videos = np.take(videos, np.linspace(0, length - 1, min(frames, length)).round().astype(int), axis=-4)
  for axis in (-3, -2):
    edges = np.linspace(0, videos.shape[axis], min(side, videos.shape[axis]) + 1).astype(int)
    counts = np.diff(edges).reshape(-1, *[1] * (-1 - axis))
    videos = np.add.reduceat(videos, edges[:-1], axis=axis) / counts
  return videos.astype(np.float32)


def _amplitudes(grey: np.ndarray, axes: tuple[int, ...], highest: int = 7) -> np.ndarray:
  """Of the lower frequencies of `[n t h w]` along some axes: a shift along them leaves them as they are."""
  found = np.abs(np.fft.rfftn(grey, axes=axes))[..., : highest + 1]
  rows = np.fft.fftfreq(found.shape[2], 1 / found.shape[2])
  return found[:, :, np.abs(rows) <= highest]


def _words(captions: Sequence[str]) -> np.ndarray:
  """`[n r]`: orthonormal columns that span what can be said linearly of which words a caption has."""
  split = [set(caption.lower().split()) for caption in captions]
  vocabulary = sorted(set.union(*split))
  has = np.array([[float(word in words) for word in vocabulary] for words in split])
  columns, strengths, _ = np.linalg.svd(has - has.mean(0), full_matrices=False)
  return columns[:, strengths > 1e-6 * max(strengths[0], 1e-6)]


def _explained(views: Sequence[np.ndarray], words: np.ndarray, orders: np.ndarray) -> np.ndarray:
  """`[views orders]`: the share of each view's variance that words explain, in some orders `[orders n]` of captions."""
  strongest = [_strongest(view) for view in views]
  starts = np.cumsum([0, *(part.shape[1] for part in strongest)])[:-1]
  both = np.concatenate(strongest, axis=1)
  explained = [
    np.add.reduceat(np.square(np.tensordot(words[some], both, axes=(1, 0))).sum(1), starts, axis=1)
    for some in np.array_split(orders, -(-len(orders) // 50))  # at once, as memory allows
  ]
  return np.concatenate(explained).T / np.array([[np.square(part).sum()] for part in strongest])


def _strongest(view: np.ndarray) -> np.ndarray:
  """`[n d]`: the coordinates of clips in the directions in which a view differs most."""
  features = view.reshape(len(view), -1).astype(np.float64)
  columns, strengths, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
  return (columns * strengths)[:, :DIRECTIONS]
