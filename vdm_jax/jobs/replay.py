"""Mode `replay`: repeating the step at which a run ended because its steps were not finite."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from vdm_jax import partitioning, training
from vdm_jax.errors import InvalidInput
from vdm_jax.runs import Run
from vdm_jax.tools.compilation.programs import build_model


def replay(config: ConfigDict, run: Run) -> int:
  """Print whether the step reproduces bit for bit and what is not finite; return 0 if it reproduces.

  Uses one device if the number of devices differs from the run's.
  """
  try:
    mesh = partitioning.make_mesh(config.mesh)
  except ValueError:
    mesh = partitioning.make_mesh({'data': 1}, jax.devices()[:1])
  try:
    # No text encoder is needed: the stored batch holds the embeddings of its captions.
    done = training.replay(run.path, config, build_model(config), mesh)
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  if jax.process_index() == 0:
    bits = 'bitwise equal to the run' if done.same else 'bitwise different from the run'
    print(f'step {done.step}: loss {done.measured["loss"]}, {bits}')
    for number, what in enumerate(done.found):
      print(f'{"first not finite" if number == 0 else "then"}: {what}')
  return int(not done.same)
