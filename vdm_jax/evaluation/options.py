"""The options of an evaluation, one per flag of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vdm_jax.errors import InvalidInput
from vdm_jax.runs import Run


class EvalOptions(NamedTuple):
  """Options of an evaluation.

  Attributes:
    protocol: key of PROTOCOLS.
    sweep: key of SWEEPS; None: measure the run's own settings.
    real_vs_real: measure real clips instead of samples, for the best value to expect.
    features: folder of the feature networks' weight files, or 'random' for stand-ins; None for protocols without
      feature networks.
    prompt_file: text file of prompts, for protocols whose prompts are not shipped.
    limit: most samples, and most clips of each reference.
    batch_size: samples to generate, or clips to read, at a time.
    out: folder of the records; by default `evaluation` in the folder of the run, or of the videos.
    videos: folder of existing videos to measure in place of samples; no run is needed.

  >>> EvalOptions(protocol='digits', out='scores').folder(Run('runs/digits')).name
  'scores'
  """

  protocol: str = 'digits'
  sweep: str | None = None
  real_vs_real: bool = False
  features: str | None = None
  prompt_file: str | None = None
  limit: int | None = None
  batch_size: int = 32
  out: str | None = None
  videos: str | None = None

  def folder(self, run: Run | None) -> Path:
    """Return the folder of the records.

    Raises:
      InvalidInput: no folder is given, and the run has none.
    """
    if self.out is not None:
      return Path(self.out)
    if self.videos is not None:
      return Path(self.videos) / 'evaluation'
    if not run.path.is_dir():
      raise InvalidInput(f'--out is missing: {run.name} is not a folder for records, so give one, such as --out=out.')
    return run.path / 'evaluation'
