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

from vdm_jax import checkpoints, configuration, models, partitioning, pretrained
from vdm_jax import weights as weights_files
from vdm_jax.names import choose
from vdm_jax.runtime.hashing import sha256
from vdm_jax.types import Params


class Run:
  """A trained model: the workdir of a run, a file written by `export_weights`, or `pretrained:NAME`.

  Nothing is read before it is needed, and then once: where the run is, its configuration, and which of its checkpoints
  is the newest good one. Functions that use a trained model take a Run, so that no path is resolved twice.

  Args:
    name: the run as its user names it; messages and records use it.
    checkpoint: step of the checkpoint to use; None: the newest good one.
    weights: 'ema' for the averaged parameters, 'raw' for those that training last updated; None: 'ema', or what a
      weights file holds.

  >>> run = Run('pretrained:digits')
  >>> run.step, run.weights, run.config['data']['name']
  (2000, 'ema', 'digits')
  >>> Run('pretrained:digits', checkpoint=1000).step
  Traceback (most recent call last):
  ...
  FileNotFoundError: pretrained:digits has no checkpoint of step 1000: it holds the weights of step 2000 alone.
  """

  def __init__(self, name: str | os.PathLike, *, checkpoint: int | None = None, weights: str | None = None):
    self.name, self._checkpoint = os.fspath(name), checkpoint
    self._weights = weights if weights is None else choose('weights', weights, list(checkpoints.WEIGHTS))

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
    """The step of the checkpoint, or of the exported weights.

    Raises FileNotFoundError if there is none, and ValueError if it is damaged.
    """
    if self.path.is_file():
      if self._checkpoint not in (None, self._metadata.step):
        raise FileNotFoundError(
          f'{self.name} has no checkpoint of step {self._checkpoint}: it holds the weights of step '
          f'{self._metadata.step} alone.'
        )
      return self._metadata.step
    if self._checkpoint is None:
      return checkpoints.newest_good_step(self.path)
    checkpoints.check_step(self.path, self._checkpoint)
    return self._checkpoint

  @functools.cached_property
  def weights(self) -> str:
    """Which parameters are used: 'ema' or 'raw'. Raises ValueError if a weights file holds the others."""
    held = self._metadata.weights if self.path.is_file() else None
    if held and self._weights not in (None, held):
      raise ValueError(
        f'{self.name} holds the {held} weights alone, not the {self._weights} ones: name the workdir of its run.'
      )
    return held or self._weights or 'ema'

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """What distinguishes these parameters from all others: their step, kind and hash, ready for JSON.

    A run that is trained anew in the same folder has another hash, and so has another run at the same path. No weights
    of a workdir are read: its checkpoints have checksums. Raises as `step` and `weights` do.
    """
    in_file = self.path.is_file()
    content = sha256(self.path) if in_file else checkpoints.content_hash(self.path, self.step)
    return {'step': self.step, 'weights': self.weights, 'hash': content}

  @functools.cached_property
  def run_id(self) -> str:
    """The identity of the training, which stays the same while it is resumed; '' if it is unknown."""
    if self.path.is_file():
      return self._metadata.run_id
    try:
      return str(json.loads((self.path / 'env.json').read_text()).get('run_id', ''))
    except (OSError, ValueError, AttributeError):
      return ''

  @property
  def original_hash(self) -> str:
    """The hash of the checkpoint that the parameters come from, which an exported file keeps."""
    return (self._metadata.hash if self.path.is_file() else '') or self.identity['hash']

  @property
  def origin(self) -> dict[str, str]:
    """Where the parameters come from, as an exported file records it (see `weights.Metadata`)."""
    return {'weights': self.weights, 'hash': self.original_hash, 'run_id': self.run_id}

  def load(self, mesh: Mesh | None = None, model: models.Model | None = None) -> tuple[models.Model, Params]:
    """Return the model and its parameters, those that `weights` says.

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
    kind, step = self.weights, self.step
    if self.path.is_file():
      return model, _read_weights(self.path, abstract)
    return model, checkpoints.restore_weights(self.path, step, abstract, kind)

  def export_weights(self, path: str | os.PathLike, dtype: str = 'float32') -> None:
    """Write the parameters to a safetensors file, with names 'a/b/c' and the configuration as metadata.

    Args:
      path: the file to write.
      dtype: type to round to, float32 or float16; loaded, they are float32 again.
    """
    _, params = self.load()
    tensors = {name: np.asarray(value) for name, value in checkpoints.named(params).items()}
    weights_files.write(path, tensors, self._config_beside(Path(path)), self.step, dtype, self.origin)

  def _config_beside(self, file: Path) -> dict[str, Any]:
    """The configuration to store in a file, from whose folder the path to the first stage then leads."""
    config = json.loads(json.dumps(self.config))
    if path := config['training']['first_stage_identity']['path']:
      own = self.path if self.path.is_dir() else self.path.parent
      config['training']['first_stage_identity']['path'] = os.path.relpath(own / path, file.absolute().parent)
    return config

  @functools.cached_property
  def _metadata(self) -> weights_files.Metadata:
    return weights_files.read_metadata(self.path)


def load(
  path: str | os.PathLike,
  mesh: Mesh | None = None,
  model: models.Model | None = None,
  *,
  checkpoint: int | None = None,
  weights: str | None = None,
) -> tuple[models.Model, Params]:
  """Return the model and parameters of a workdir, of a file written by `export_weights`, or of `pretrained:NAME`.

  Arguments and exceptions are those of `Run` and `Run.load`.

  >>> model, params = load('pretrained:digits')
  >>> model.video_shape
  (8, 16, 16, 1)
  """
  return Run(path, checkpoint=checkpoint, weights=weights).load(mesh, model)


def export_weights(
  workdir: str | os.PathLike,
  path: str | os.PathLike,
  dtype: str = 'float32',
  *,
  checkpoint: int | None = None,
  weights: str | None = None,
) -> None:
  """Write the parameters of a run to a safetensors file; arguments are those of `Run` and `Run.export_weights`."""
  Run(workdir, checkpoint=checkpoint, weights=weights).export_weights(path, dtype)


def _read_weights(path: Path, abstract: Params) -> Params:
  tensors = weights_files.read(path)
  checkpoints.check_shapes(path, tensors, checkpoints.named(abstract))
  return jax.tree_util.tree_map_with_path(
    lambda p, x: jax.device_put(tensors[checkpoints.tensor_name(p)], x.sharding), abstract
  )
