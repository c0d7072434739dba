"""Running a feature network: batches of few sizes, one compiled program for each."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from vdm_jax import partitioning
from vdm_jax.evaluation.features.contract import Extractor, Features, Network
from vdm_jax.types import Params


def build(network: Network, weights: str, params: Params, mesh: Mesh | None = None) -> Extractor:
  """Return an extractor.

  Args:
    network: the computation.
    weights: description of the parameters for the record.
    params: the parameters.
    mesh: local devices to split each batch over; None: the first device.

  Raises:
    ValueError: the mesh has devices of another process.
  """
  if mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
    raise ValueError(
      f'features of {network.name!r}: the mesh has devices of other processes, but each process computes its own '
      'clips; make the mesh from jax.local_devices()'
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
  """Return the clips. Raises ValueError unless they are uint8 [n t h w 3] with a number of frames the network takes."""
  clips, (fewest, most) = np.asarray(clips), network.frames
  wanted = f'features of {network.name!r} are of uint8 [n t h w 3], RGB'
  if clips.dtype != np.uint8:
    raise ValueError(f'{wanted}; these clips are {clips.dtype}: convert [-1, 1] by round((x + 1) * 127.5)')
  if clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
    raise ValueError(f'{wanted}; these clips have shape {clips.shape}')
  frames = clips.shape[1]
  if frames < fewest or (most is not None and frames > most):
    allowed = f'{fewest} or more' if most is None else f'exactly {most}' if fewest == most else f'{fewest} to {most}'
    raise ValueError(f'{wanted}, t {allowed}; these clips have {frames} frames')
  return clips


def _call_size(rows: int, at_once: int, parts: int) -> int:
  """Rows per call: a power of two for each device, so that few programs are compiled whatever the number of rows."""
  each = -(-rows // parts)
  return parts * min(at_once, 1 << (each - 1).bit_length())
