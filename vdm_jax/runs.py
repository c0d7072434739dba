"""A trained model on disk: opened once, handed on as a value."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from vdm_jax import checkpoints, configuration, models, partitioning, pretrained, weights
from vdm_jax.types import Params


class Run:
  """A trained model: the workdir of a run, a file written by `export_weights`, or `pretrained:NAME`.

  Nothing is read before it is needed, and then once: where the run is, its configuration, and which of its checkpoints
  is the newest good one. Functions that use a trained model take a Run, so that no path is resolved twice.

  Attributes:
    name: the run as its user named it; messages and records use it.

  >>> run = Run('pretrained:digits')
  >>> run.step, run.config['data']['name']
  (2000, 'digits')
  """

  def __init__(self, name: str | os.PathLike):
    self.name = os.fspath(name)

  def __repr__(self) -> str:
    return f'Run({self.name!r})'

  @functools.cached_property
  def path(self) -> Path:
    """The workdir or weights file. Raises ValueError for an unknown or damaged pretrained model."""
    return pretrained.path_of(self.name)

  @property
  def exists(self) -> bool:
    """Whether there is a trained model, or at least its configuration."""
    if not self.path.is_file():
      return (self.path / 'config.json').is_file()
    try:
      return bool(self._metadata)
    except ValueError:
      return False

  @functools.cached_property
  def config(self) -> dict[str, Any]:
    """The configuration that the run was made with: plain dicts and lists under the current keys; never executed.

    Keys that did not exist yet have their defaults, which keep its behavior. Raises FileNotFoundError or ValueError if
    there is none.
    """
    if self.path.is_file():
      return self._metadata.config
    try:
      return configuration.complete(json.loads((self.path / 'config.json').read_text()))
    except (FileNotFoundError, NotADirectoryError):
      raise FileNotFoundError(
        f'{self.path} has no config.json: name the workdir of a training run, or a weights file.'
      ) from None

  @functools.cached_property
  def step(self) -> int:
    """The step of the newest good checkpoint, or of the exported weights. Raises FileNotFoundError if there is none."""
    return self._metadata.step if self.path.is_file() else checkpoints.newest_good_step(self.path)

  def load(self, mesh: Mesh | None = None, model: models.Model | None = None) -> tuple[models.Model, Params]:
    """Return the model and its EMA parameters.

    Args:
      mesh: devices to shard the parameters over; None: the first device of this process.
      model: used in place of the model of `config`, such as one built from a changed configuration.

    Raises:
      FileNotFoundError: there is no configuration or no checkpoint.
      ValueError: the parameters do not fit the model.
    """
    model = model or models.build(self.config['model'])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    if mesh is None:
      shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), shapes)
    else:
      shardings = partitioning.param_shardings(mesh, shapes, model.logical_axes)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    if self.path.is_file():
      return model, _read_weights(self.path, abstract)
    return model, checkpoints.restore_ema(self.path, self.step, abstract)

  def export_weights(self, path: str | os.PathLike, dtype: str = 'float32') -> None:
    """Write the EMA parameters to a safetensors file, with names 'a/b/c' and the configuration as metadata.

    Args:
      path: the file to write.
      dtype: type to round to, float32 or float16; loaded, they are float32 again.
    """
    _, params = self.load()
    tensors = {name: np.asarray(value) for name, value in checkpoints.named(params).items()}
    weights.write(path, tensors, self.config, self.step, dtype)

  @functools.cached_property
  def _metadata(self) -> weights.Metadata:
    return weights.read_metadata(self.path)


def load(
  path: str | os.PathLike, mesh: Mesh | None = None, model: models.Model | None = None
) -> tuple[models.Model, Params]:
  """Return the model and EMA parameters of a workdir, of a file written by `export_weights`, or of `pretrained:NAME`.

  Arguments and exceptions are those of `Run.load`.

  >>> model, params = load('pretrained:digits')
  >>> model.video_shape
  (8, 16, 16, 1)
  """
  return Run(path).load(mesh, model)


def export_weights(workdir: str | os.PathLike, path: str | os.PathLike, dtype: str = 'float32') -> None:
  """Write the newest EMA parameters of a run to a safetensors file; see `Run.export_weights`."""
  Run(workdir).export_weights(path, dtype)


def _read_weights(path: Path, abstract: Params) -> Params:
  tensors = weights.read(path)
  checkpoints.check_shapes(path, tensors, checkpoints.named(abstract))
  return jax.tree_util.tree_map_with_path(
    lambda p, x: jax.device_put(tensors[checkpoints.tensor_name(p)], x.sharding), abstract
  )
