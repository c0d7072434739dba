"""Reading a checkpoint, or a part of it, into a tree of a given layout."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vdm_jax.checkpoints.integrity import folder_of
from vdm_jax.names import RENAMED_STATE
from vdm_jax.types import Params

# Which parameters of a state: the averaged ones that sampling uses, or those that training last updated.
WEIGHTS = {'ema': 'ema', 'raw': 'params'}  # name -> key of the state


def restore_ema(workdir: str | os.PathLike, step: int, abstract: Params) -> Params:
  """Return the EMA parameters of a checkpoint. Arguments and exceptions are those of `restore_weights`.

  >>> import tempfile
  >>> from vdm_jax.checkpoints import Checkpointer
  >>> workdir = tempfile.mkdtemp()
  >>> with Checkpointer(workdir, keep=1) as checkpointer:
  ...   checkpointer.save(10, {'ema': {'kernel': jax.numpy.ones(2)}, 'params': {'kernel': jax.numpy.zeros(2)}})
  >>> device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  >>> restore_ema(workdir, 10, {'kernel': jax.ShapeDtypeStruct((2,), jax.numpy.float32, sharding=device)})
  {'kernel': Array([1., 1.], dtype=float32)}
  """
  return restore_weights(workdir, step, abstract, 'ema')


def restore_weights(workdir: str | os.PathLike, step: int, abstract: Params, kind: str) -> Params:
  """Return the parameters of a checkpoint without reading the rest of the state.

  Args:
    workdir: the folder of the run.
    step: the step of the checkpoint, such as `newest_good_step(workdir)`.
    abstract: tree of ShapeDtypeStructs with shardings.
    kind: a key of WEIGHTS.

  Raises:
    ValueError: shapes differ from those saved.

  >>> import tempfile
  >>> from vdm_jax.checkpoints import Checkpointer
  >>> workdir = tempfile.mkdtemp()
  >>> with Checkpointer(workdir, keep=1) as checkpointer:
  ...   checkpointer.save(10, {'ema': {'kernel': jax.numpy.ones(2)}, 'params': {'kernel': jax.numpy.zeros(2)}})
  >>> device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  >>> restore_weights(workdir, 10, {'kernel': jax.ShapeDtypeStruct((2,), jax.numpy.float32, sharding=device)}, 'raw')
  {'kernel': Array([0., 0.], dtype=float32)}
  """
  key = WEIGHTS[kind]
  return restore(folder_of(workdir) / str(step), {key: abstract})[key]


def restore(folder: Path, abstract: Any, added: Collection[str] = ()) -> Any:
  """Return those leaves of a checkpoint that `abstract` has, laid out accordingly.

  Args:
    folder: the checkpoint.
    abstract: tree of ShapeDtypeStructs with shardings. Its root may be a NamedTuple or a dict, whose keys are also
      looked up under their former names (`names.RENAMED_STATE`).
    added: names of leaves that are zeros if the checkpoint is too old to have them.

  Raises:
    ValueError: shapes differ from those saved; the message lists every such leaf.
  """
  handler = ocp.PyTreeCheckpointHandler()
  with ocp.Checkpointer(handler) as reader:
    saved = handler.metadata(folder / 'default').tree
    roots = {key: _saved_as(key, saved) for key in _fields(abstract)}
    absent = set(added) - {_renamed(name, {old: key for key, old in roots.items()}) for name in named(saved)}
    present = jax.tree_util.tree_map_with_path(lambda p, x: None if tensor_name(p) in absent else x, abstract)
    item = {roots[key]: value for key, value in _fields(present).items()}
    check_shapes(folder, saved, item)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    found = named(reader.restore(folder / 'default', args=args))

  def leaf(path: Any, x: jax.ShapeDtypeStruct) -> jax.Array:
    name = tensor_name(path)
    return _zeros(x) if name in absent else found[_renamed(name, roots)]

  return jax.tree_util.tree_map_with_path(leaf, abstract)


def check_shapes(origin: Path, saved: Any, abstract: Any) -> None:
  """Raise ValueError unless the saved leaves have the names, types and shapes of `abstract`.

  Args:
    origin: the checkpoint or file, for the message.
    saved: tree of what was saved. Top-level keys that `abstract` does not have are ignored.
    abstract: tree of what is expected.

  >>> check_shapes(Path('weights'), {'kernel': np.zeros((2, 3))}, {'kernel': np.zeros((2, 4))})  # doctest: +ELLIPSIS
  Traceback (most recent call last):
  ...
  ValueError: checkpoint weights does not fit the model:
    kernel: float64[2, 3] saved, float64[2, 4] expected
  ...
  """
  found, wanted = named(saved), named(abstract)
  roots = {name.split('/')[0] for name in wanted}
  found = {name: leaf for name, leaf in found.items() if name.split('/')[0] in roots}

  def describe(leaf: Any) -> str:
    return 'absent' if leaf is None else f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'

  different = [
    f'  {name}: {describe(found.get(name))} saved, {describe(wanted.get(name))} expected'
    for name in sorted(found.keys() | wanted.keys())
    if describe(found.get(name)) != describe(wanted.get(name))
  ]
  if different:
    raise ValueError(
      f'checkpoint {origin} does not fit the model:\n' + '\n'.join(different) + '\n'
      'Use the configuration of the run (config.json beside it), or another --workdir.'
    )


def named(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree by their `tensor_name`.

  >>> named({'a': {'kernel': 1.0}, 'b': (2.0, 3.0)})
  {'a/kernel': 1.0, 'b/0': 2.0, 'b/1': 3.0}
  """
  return {tensor_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def tensor_name(path: Any) -> str:
  """Return the name `a/b/c` of a leaf from its path in a tree.

  >>> [(path, leaf)] = jax.tree_util.tree_leaves_with_path({'a': {'kernel': 1.0}})
  >>> tensor_name(path)
  'a/kernel'
  """
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _fields(tree: Any) -> dict[str, Any]:
  """The top-level children of a NamedTuple or dict by key."""
  return tree._asdict() if hasattr(tree, '_asdict') else dict(tree)


def _saved_as(key: str, saved: Any) -> str:
  """The name of a top-level key in a checkpoint, which may be a former one."""
  former = RENAMED_STATE.get(key)
  return former if former in saved and key not in saved else key


def _renamed(name: str, roots: dict[str, str]) -> str:
  """The name of a leaf with its first part replaced."""
  root, slash, rest = name.partition('/')
  return roots.get(root, root) + slash + rest


def _zeros(abstract: jax.ShapeDtypeStruct) -> jax.Array:
  zeros = np.zeros(abstract.shape, abstract.dtype)
  return jax.make_array_from_callback(zeros.shape, abstract.sharding, lambda index: zeros[index])
