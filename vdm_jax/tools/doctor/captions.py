"""Whether captions match their clips, by a statistical test without knowledge of words, and how many are cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.data import normalization
from vdm_jax.inputs import caption_lengths
from vdm_jax.inputs.captions import words as caption_words
from vdm_jax.text import Encode
from vdm_jax.tools.doctor.symptoms import Fault

COUNT = 512  # clips that are read
SIGNIFICANCE = 0.01  # p value of shuffled captions below which captions match
# Share of the variance between clips that matching captions explain at least, in the best of the views. In 512 clips of
# the embedded digits they explain 0.07 (captions with only the speed) to 0.98 (captions with the color).
MATCHING = 0.05
PERMUTATIONS = 1_000
DIRECTIONS = 64  # principal components kept of a view


def examine(config: ConfigDict) -> tuple[Fault | None, str]:
  """Return `shuffled_captions` of the training clips of a configuration, which are read one at a time."""
  clips = data.ExampleClips(config.data, 'train', seed=config.seed)
  videos, captions, normalize = [], [], normalization.of_config(config.data)
  for index in clips.first(COUNT):
    clip = clips[index]
    videos.append(_shrunk(np.nan_to_num(normalize.apply(clip.video))))
    captions.append(clip.caption or '')
  return shuffled_captions(np.stack(videos), captions)


def remarks(config: ConfigDict, encode: Encode | None, found: data.Overview) -> list[str]:
  """Return what a user should know of the data although they can be trained on, one text each.

  That is what the data sets leave out, and how many captions are longer than `data.text_length`. Embeddings from a
  cache are as long as they were made, so their captions are not counted; `vdm_jax.text embed` did.
  """
  if encode is None or config.data.text_cache:
    return list(found.remarks)
  lengths = [encode.count(caption) for caption in found.captions]
  cut = caption_lengths.cut_report(lengths, config.data.text_length, getattr(encode, 'unit', 'tokens'))
  return [*found.remarks, *([cut] if cut else [])]


def shuffled_captions(videos: np.ndarray, captions: Sequence[str], *, seed: int = 0) -> tuple[Fault | None, str]:
  """Return a fault if captions do not match their clips `[n t h w c]`, and a line for the report.

  The statistic is the share of variance between clips that the words of captions explain linearly (redundancy
  analysis), minus the share that shuffled captions explain, in the most significant of several views of the clips. A
  result that is not significant is not a fault yet: the views may miss what captions describe, or clips may be too few.
  A fault is returned only if words explain less than MATCHING in every view, with a margin of two standard deviations.
  """
  distinct = len(set(captions))
  line = f'captions: {distinct} distinct in {len(captions)} clips'
  words = _words(captions)
  if not words.size:
    return None, line
  if len(captions) < 2 * words.shape[1]:
    return None, f'{line}, too few clips to test whether captions with so many words match'
  p_value, at_most = _alignment(videos, words, seed)
  if p_value < SIGNIFICANCE:
    return None, f'{line}, which match (p = {p_value:.2g})'
  if at_most >= MATCHING:
    return None, f'{line}; the test is inconclusive (p = {p_value:.2g})'
  return Fault(
    'shuffled captions',
    f'in {len(captions)} clips with {distinct} captions, clips with similar captions are not more similar than random '
    f'ones (p = {p_value:.2g}): captions explain at most {at_most:.1%} of the variance between clips in position, '
    'pattern, motion or color. Check that each clip has its own caption.',
  ), line


def _alignment(videos: np.ndarray, words: np.ndarray, seed: int) -> tuple[float, float]:
  """Return the p value under shuffled captions, and an upper bound on the share these captions explain in any view."""
  rng = np.random.default_rng((seed, len(words)))
  orders = np.stack([np.arange(len(words)), *(rng.permutation(len(words)) for _ in range(PERMUTATIONS))])
  views = [view for view in _views(videos) if np.ptp(view, axis=0).any()]
  if not views:
    return 1.0, 1.0
  shares = _explained(views, words, orders)
  found, chance = shares[:, 0], shares[:, 1:]
  mean, deviation = chance.mean(1), chance.std(1)
  most = ((chance - mean[:, None]) / deviation[:, None]).max(0)
  p_value = (1 + np.sum(most >= ((found - mean) / deviation).max())) / (1 + PERMUTATIONS)
  return float(p_value), float(((found - mean + 2 * deviation) / (1 - mean)).max())


def _views(videos: np.ndarray) -> list[np.ndarray]:
  """Return views `[n ...]` of clips: positions; patterns and motion, independent of position; color."""
  small = _shrunk(videos)
  gray = small.mean(-1)
  return [
    _shrunk(videos, frames=4, side=8),
    _amplitudes(gray, (2, 3)).mean(1),
    _amplitudes(gray, (1, 2, 3)),
    small.mean((1, 2, 3)),
  ]


def _shrunk(videos: np.ndarray, frames: int = 8, side: int = 32) -> np.ndarray:
  """Return at most this many frames of `[... t h w c]`, averaged to at most `side` x `side` pixels."""
  length = videos.shape[-4]
  videos = np.take(videos, np.linspace(0, length - 1, min(frames, length)).round().astype(int), axis=-4)
  for axis in (-3, -2):
    edges = np.linspace(0, videos.shape[axis], min(side, videos.shape[axis]) + 1).astype(int)
    counts = np.diff(edges).reshape(-1, *[1] * (-1 - axis))
    videos = np.add.reduceat(videos, edges[:-1], axis=axis) / counts
  return videos.astype(np.float32)


def _amplitudes(gray: np.ndarray, axes: tuple[int, ...], highest: int = 7) -> np.ndarray:
  """Return amplitudes of the lower frequencies of `[n t h w]` along some axes; they are invariant to shifts."""
  found = np.abs(np.fft.rfftn(gray, axes=axes))[..., : highest + 1]
  rows = np.fft.fftfreq(found.shape[2], 1 / found.shape[2])
  return found[:, :, np.abs(rows) <= highest]


def _words(captions: Sequence[str]) -> np.ndarray:
  """Return `[n r]`: an orthonormal basis of the centered indicators of which words a caption has."""
  split = [set(caption_words(caption)) for caption in captions]
  vocabulary = sorted(set.union(*split))
  has = np.array([[float(word in words) for word in vocabulary] for words in split])
  columns, strengths, _ = np.linalg.svd(has - has.mean(0), full_matrices=False)
  return columns[:, strengths > 1e-6 * max(strengths[0], 1e-6)]


def _explained(views: Sequence[np.ndarray], words: np.ndarray, orders: np.ndarray) -> np.ndarray:
  """Return `[views orders]`: the share of each view's variance that words explain, for permutations `[orders n]`."""
  strongest = [_strongest(view) for view in views]
  starts = np.cumsum([0, *(part.shape[1] for part in strongest)])[:-1]
  both = np.concatenate(strongest, axis=1)
  explained = [
    np.add.reduceat(np.square(np.tensordot(words[some], both, axes=(1, 0))).sum(1), starts, axis=1)
    for some in np.array_split(orders, -(-len(orders) // 50))  # in parts, to save memory
  ]
  return np.concatenate(explained).T / np.array([[np.square(part).sum()] for part in strongest])


def _strongest(view: np.ndarray) -> np.ndarray:
  """Return `[n d]`: the first principal components of a view."""
  features = view.reshape(len(view), -1).astype(np.float64)
  columns, strengths, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
  return (columns * strengths)[:, :DIRECTIONS]
