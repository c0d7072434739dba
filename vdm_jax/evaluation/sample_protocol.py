"""Protocols with their own `evaluate`: samples are generated, stored, and handed to that function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.options import EvalOptions
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.resumable_arrays import fill
from vdm_jax.evaluation.video_folder import VideoFolder
from vdm_jax.generation.stages import Stage, identify, make_generators, open_stages
from vdm_jax.runs import Run
from vdm_jax.video import to_float


def check_options(protocol: Protocol, options: EvalOptions) -> None:
  """Raise InvalidInput for an option that has no effect on a protocol with `evaluate`."""
  for flag in ('features', 'prompt_file', 'limit', 'real_vs_real'):
    if getattr(options, flag) not in (None, False):
      raise InvalidInput(f'--{flag} has no effect with --protocol={protocol.name}, which needs only the run: omit it.')


def describe_stages(stages: Sequence[Stage]) -> dict[str, Any]:
  """Return what a record says of the parameters it was measured with: those of the run, and of every stage."""
  *_, last = (stage.run for stage in stages)
  return {
    'step': last.step,
    'model': {'ema': 'EMA', 'raw': 'raw'}[last.weights],
    'stages': [{'run': stage.run.name, **stage.run.identity} for stage in stages],
  }


class SampleMeasurement:
  """Measures a run by a protocol with `evaluate`."""

  def __init__(self, config: ConfigDict, run: Run | None, protocol: Protocol, options: EvalOptions):
    """Open the run, or the videos. Raises InvalidInput if they cannot be opened."""
    self._config, self._protocol, self._size = config, protocol, options.batch_size
    self._files = None if options.videos is None else VideoFolder(options.videos)
    self._stages = open_stages(config, run) if self._files is None else []
    self._make_generate = make_generators(self._stages, batch_size=self._size) if self._stages else None
    self._step = run.step if self._stages else 0
    self._folder = options.folder(run) / protocol.name

  def measure(self, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of the run with the section `sampling`.

    Raises:
      InvalidInput: the run does not fit the protocol, or sampling failed.
    """
    config = self._config
    generate = self._make_generate(sampling) if self._stages else None

    def generate_or_read(prompts: Sequence[str]) -> np.ndarray:
      if self._files is not None:
        return _existing(self._files, list(prompts), config.data)
      return self._videos(generate, sampling, list(prompts))

    try:
      record = self._protocol.evaluate(
        generate_or_read, config.data, seed=config.seed, num_trained=self._step * config.data.batch_size
      )
    except (ValueError, FloatingPointError) as error:
      raise InvalidInput(str(error)) from error
    if self._files is not None:
      return record | {'seed': config.seed, **self._files.description}
    return record | {'seed': config.seed, 'sampling': dict(sampling), **describe_stages(self._stages)}

  def _videos(self, generate: Any, sampling: Mapping[str, Any], prompts: list[str]) -> np.ndarray:
    """Videos of the prompts, generated batch by batch, or read if they exist."""
    config, size = self._config, self._size
    job = {'seed': config.seed, 'prompts': prompts, 'batch_size': size, **identify(self._stages, sampling)}

    def make(number: int) -> dict[str, np.ndarray]:
      some = prompts[number * size : (number + 1) * size]
      padded = some + some[-1:] * (size - len(some))
      return {'videos': generate(prompts=padded, seed=config.seed, first=number * size)[: len(some)]}

    batches = fill(self._folder, 'samples', job, len(prompts), make, batch_size=size)
    return np.concatenate(list(batches.read('videos')))


def _existing(files: VideoFolder, prompts: list[str], data: ConfigDict) -> np.ndarray:
  """Existing videos of these prompts, at the size of the clips that they are compared to."""
  shape = (data.num_frames, data.height - 2 * data.pad_rows, data.width, data.channels)
  return to_float(files.videos(files.by_prompt(prompts), shape))
