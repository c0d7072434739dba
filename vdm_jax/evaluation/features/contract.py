"""The contract of a feature network: clips of uint8 go in, features come out.

A feature network is one file of this folder with a `FeatureNetwork`, and one entry in `table.FEATURE_NETWORKS`. Metrics
name the entry (`protocols.contract.Metric.network`); no other module knows a network by name.
docs/extending/feature_network.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdm_jax.types import Array, Params

Encode = Callable[[Sequence[str]], np.ndarray]  # n captions -> float32 [n d]


class Features(NamedTuple):
  """Outputs of a network for n clips of t frames.

  Networks of clips have one row per clip. Networks of images have one per frame; `Metric.frames` says what becomes of
  those.

  Attributes:
    pool: float32 `[n d]` or `[n t d]`, for a Fréchet distance or a cosine.
    logits: float32 `[n k]` or `[n t k]`, for an Inception Score; None for networks without classes.
  """

  pool: np.ndarray
  logits: np.ndarray | None


class Extractor(NamedTuple):
  """A feature network with its weights, ready for use.

  Attributes:
    name: key of FEATURE_NETWORKS.
    weights: hash of the file and what it was recognized as, or 'random:SEED', for the record.
    min_frames: fewest frames of a clip.
    max_frames: most frames; None: any number.
    apply: uint8 `[n t h w 3]`, RGB, n >= 1, any height and width -> Features. It resizes as the network's metric does.
      Raises ValueError for another dtype or shape, or another number of frames.
  """

  name: str
  weights: str
  min_frames: int
  max_frames: int | None
  apply: Callable[[np.ndarray], Features]


class TextExtractor(NamedTuple):
  """The text encoder that belongs to a feature network.

  Attributes:
    name: key of FEATURE_NETWORKS.
    weights: as in Extractor.
    apply: n captions -> float32 `[n d]`, in the space of the network's `pool`.
  """

  name: str
  weights: str
  apply: Encode


class Network(NamedTuple):
  """The computation of a feature network, without weights.

  Attributes:
    name: key of FEATURE_NETWORKS.
    forward: (params, uint8 `[b ...]`) -> (pool `[b d]`, logits `[b k]` or None). Jitted; resizes by itself.
    frames: fewest and most frames of a clip; None: any number.
    of_images: whether `forward` takes frames `[b h w 3]` instead of clips `[b t h w 3]`.
    at_once: clips or frames per call and device.
    on_host: applied to uint8 arrays before they are sent to the device.
  """

  name: str
  forward: Callable[[Params, Array], tuple[Array, Array | None]]
  frames: tuple[int, int | None]
  of_images: bool
  at_once: int
  on_host: Callable[[np.ndarray], np.ndarray] = np.asarray


class FeatureNetwork(NamedTuple):
  """An entry of FEATURE_NETWORKS.

  `width` is the number of channels relative to the published network; only stand-ins with random weights have another
  width than 1.

  Attributes:
    network: width -> the computation.
    load_params: (path, width) -> the parameters, and the hash of the file with what it was recognized as. Raises
      FileNotFoundError or ValueError if the file is missing, or is not this network's.
    random_params: (seed, width) -> parameters of a stand-in.
    files: file names, or patterns, to look for in the folder of `--features`; the first match is used.
    download: which files to download and which project publishes them, for error messages.
    standin_width: width of the stand-ins of `--features=random`; narrow ones run on a CPU.
    load_text: folder -> `TextExtractor.apply` and `TextExtractor.weights` of the text encoder; None if there is none.
    random_text: seed -> `TextExtractor.apply` of a stand-in.
  """

  network: Callable[[float], Network]
  load_params: Callable[[Path, float], tuple[Params, str]]
  random_params: Callable[[int, float], Params]
  files: tuple[str, ...]
  download: str
  standin_width: float = 1.0
  load_text: Callable[[Path], tuple[Encode, str]] | None = None
  random_text: Callable[[int], Encode] | None = None
