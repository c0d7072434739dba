"""What every feature network looks like from outside: clips of bytes in, features out, in calls of few sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from vdm_jax import partitioning
from vdm_jax.types import Array, Params


class Features(NamedTuple):
  """What a network computes from n clips of t frames.

  Networks of videos have one row per clip, networks of images one per frame: the caller averages over t or takes the
  first.
  """

  pool: np.ndarray  # float32 [n d] or [n t d], what a Frechet distance or a cosine is taken of
  logits: np.ndarray | None  # float32 [n k] or [n t k], what an Inception Score is taken of; None: no classes


class Extractor(NamedTuple):
  """A feature network with its weights.

  `apply` takes uint8 `[n t h w 3]`, RGB, n >= 1, of any height and width, and resizes as the network's metric does. It
  raises ValueError for another dtype or shape, and for fewer than `min_frames` or more than `max_frames` frames.
  """

  name: str
  weights: str  # hash of the file and what it was recognised as, or 'random:SEED' for a stand-in without meaning
  min_frames: int
  max_frames: int | None  # None: any number
  apply: Callable[[np.ndarray], Features]


class Network(NamedTuple):
  """A feature network before it has weights."""

  name: str
  forward: Callable[[Params, Array], tuple[Array, Array | None]]  # uint8 [b ...] -> (pool [b d], logits [b k] or None)
  frames: tuple[int, int | None]  # fewest and most
  of_images: bool  # forward takes frames [b h w 3]; else clips [b t h w 3]
  at_once: int  # clips or frames of one call on one device
  on_host: Callable[[np.ndarray], np.ndarray] = np.asarray  # before they go to the device


def build(network: Network, weights: str, params: Params, mesh: Mesh | None = None) -> Extractor:
  """Returns the extractor of a network with parameters, on the first device or with its batch split over `mesh`.

  Raises ValueError for a mesh with devices of another process.
  """
  if mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
    raise ValueError(
      f'features of {network.name!r}: the mesh has devices of other processes; every process computes its own clips, '
      'so make the mesh of jax.local_devices()'
    )
  whole = split = SingleDeviceSharding(jax.local_devices()[0])
  if mesh is not None:
    whole, split = partitioning.replicated(mesh), partitioning.batch_sharding(mesh)
  parts = 1 if mesh is None else mesh.shape['data'] * mesh.shape['fsdp']
  placed = jax.device_put(params, whole)
  forward = jax.jit(network.forward, in_shardings=(whole, split), out_shardings=whole)

  def compute(rows: np.ndarray) -> list[np.ndarray | None]:
    size = _call_size(len(rows), network.at_once, parts)
    calls = []
    for start in range(0, len(rows), size):
      some = rows[start : start + size]
      padded = np.concatenate((some, np.broadcast_to(some[:1], (size - len(some), *some.shape[1:]))))
      made = forward(placed, jax.device_put(network.on_host(padded), split))
      calls.append([None if leaf is None else np.asarray(leaf)[: len(some)] for leaf in made])
    return [None if leaves[0] is None else np.concatenate(leaves) for leaves in zip(*calls, strict=True)]

  def apply(clips: np.ndarray) -> Features:
    clips = check(network, clips)
    n, t = clips.shape[:2]
    if not network.of_images:
      return Features(*compute(clips))
    leaves = compute(clips.reshape(n * t, *clips.shape[2:]))
    return Features(*(None if leaf is None else leaf.reshape(n, t, -1) for leaf in leaves))

  return Extractor(network.name, weights, *network.frames, apply)


def check(network: Network, clips: np.ndarray) -> np.ndarray:
  """Returns the clips if they are bytes [n t h w 3] with as many frames as the network takes; raises ValueError."""
  clips, (fewest, most) = np.asarray(clips), network.frames
  wanted = f'features of {network.name!r} are of uint8 [n t h w 3], RGB'
  if clips.dtype != np.uint8:
    raise ValueError(f'{wanted}; these clips are {clips.dtype}: from [-1, 1] make round((x + 1) * 127.5)')
  if clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
    raise ValueError(f'{wanted}; these clips have shape {clips.shape}')
  frames = clips.shape[1]
  if frames < fewest or (most is not None and frames > most):
    allowed = f'exactly {fewest}' if fewest == most else f'{fewest} or more'
    raise ValueError(f'{wanted}, t {allowed}; these clips have {frames} frames')
  return clips


def _call_size(rows: int, at_once: int, parts: int) -> int:
  """Rows of a call: a power of two for each device, so that few programs are compiled whatever the number of rows."""
  each = -(-rows // parts)
  return parts * min(at_once, 1 << (each - 1).bit_length())
