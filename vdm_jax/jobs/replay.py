"""Replay of the step at which a run ended because its steps were not finite."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from vdm_jax import partitioning, training
from vdm_jax.errors import InvalidInput
from vdm_jax.tools.compilation.programs import build_model


def replay(config: ConfigDict, folder: str) -> int:
  """Repeat the step, and print whether it gives the same bits and what in it is not finite; return 0 if they are.

  If the mesh does not fit the devices, a single device is used.
  """
  try:
    mesh = partitioning.make_mesh(config.mesh)
  except ValueError:
    mesh = partitioning.make_mesh({'data': 1}, jax.devices()[:1])
  try:
    done = training.replay(folder, config, build_model(config), mesh)  # the batch holds the captions' embeddings
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  if jax.process_index() == 0:
    bits = 'the same bits as in the run' if done.same else 'other bits than in the run'
    print(f'step {done.step}: loss {done.measured["loss"]}, {bits}')
    for number, what in enumerate(done.found):
      print(f'{"not finite first" if number == 0 else "then"}: {what}')
  return int(not done.same)
