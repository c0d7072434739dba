"""Mode `doctor`: what would keep a configuration from training on this machine."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from vdm_jax.errors import ExitStatus, InvalidInput
from vdm_jax.jobs import arguments
from vdm_jax.runs import Run
from vdm_jax.tools import doctor


def examine(config: ConfigDict, workdir: str | None, *, overfit: bool, allow_change: bool = False) -> int:
  """Print the doctor's report and return the exit status, 0 if there is no problem.

  Args:
    config: the configuration.
    workdir: the folder that training would create or continue; with `overfit`, its weights are examined too.
    overfit: also measure the clips and overfit the network on eight of them.
    allow_change: value of --allow_change.
  """
  if workdir:
    arguments.adopt(config, Run(workdir))
  text = doctor.report(config, workdir, allow_change=allow_change, live=overfit)
  if jax.process_index() == 0:
    print(text, flush=True)
  if '\nproblem: ' in text:
    return ExitStatus.INVALID_INPUT
  if not overfit:
    return 0
  try:
    print(findings := doctor.overfit(config, Run(workdir) if workdir else None))
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  return ExitStatus.INVALID_INPUT if findings.faults else 0
