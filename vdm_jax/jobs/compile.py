"""Mode `compile`: compiling ahead of time, without the accelerators."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vdm_jax.errors import InvalidInput
from vdm_jax.runtime import progress
from vdm_jax.tools import compilation


def compile_ahead(config: ConfigDict, topology: str | None, origin: Mapping[str, Any]) -> int:
  """Print the compile report as one JSON object and return the exit status.

  Args:
    config: the configuration.
    topology: value of --topology.
    origin: the configuration's name and overrides, which precede the report.
  """
  if topology is None:
    raise InvalidInput('--topology is missing: name the devices to compile for, such as v4:4x4x8 or gpu:1x8x80.')
  try:
    with progress.phase(f'compiling for {topology}'):
      report = compilation.report(config, topology)
    print(json.dumps({**origin, **report}, indent=2))
  except (ValueError, RuntimeError) as error:
    raise InvalidInput(str(error)) from error
  return 0
