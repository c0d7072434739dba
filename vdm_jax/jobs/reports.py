"""Looking before doing: what the doctor finds, and what the compiler says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vdm_jax.errors import ExitStatus, InvalidInput
from vdm_jax.tools import compilation, doctor


def examine(config: ConfigDict, workdir: str | None, *, overfit: bool) -> int:
  """Prints what the doctor says of a configuration, or of a run; with `overfit` also whether it learns eight clips.

  Returns 0 if all is well.
  """
  text = doctor.report(config)
  if jax.process_index() == 0:
    print(text, flush=True)
  if '\nproblem: ' in text:
    return ExitStatus.INVALID_INPUT
  if not overfit:
    return 0
  try:
    print(findings := doctor.overfit(config, workdir))
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  return ExitStatus.INVALID_INPUT if findings.faults else 0


def compile_ahead(config: ConfigDict, topology: str | None, asked: Mapping[str, Any]) -> int:
  """Prints the compile report as one JSON object, with what was asked for before it."""
  if topology is None:
    raise InvalidInput('--topology is missing: name the devices to compile for, such as v4:4x4x8 or gpu:1x8x80.')
  try:
    print(json.dumps({**asked, **compilation.report(config, topology)}, indent=2))
  except (ValueError, RuntimeError) as error:
    raise InvalidInput(str(error)) from error
  return 0
