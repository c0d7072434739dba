"""The weight files of an encoder's folder, read tensor by tensor: one safetensors file, or several and their index.

Nothing here needs JAX or PyTorch, and nothing in a file is ever executed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'  # in place of WEIGHTS, names the several files that hold them
STACK = 'layers/'

# What a tensor may hold, and what that is kept in.
FLOATS = {'F64': np.float32, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16}


class Tensor(NamedTuple):
  """A parameter of our network, and where the files have it."""

  ours: str  # path in our network; below `layers/`, of one tensor per layer stacked on a leading axis
  names: Sequence[str]  # in the files: one, or one per layer
  shape: tuple[int, ...]  # in the files, of each: [out in] for a linear map, our `kernel`, which is [in out]
  axes: tuple[str | None, ...]  # names of the axes of `shape` in the table of `vdm_jax.partitioning`

  @property
  def our_axes(self) -> tuple[str | None, ...]:
    """Names of the axes of our parameter."""
    if not self.ours.startswith(STACK):
      return self.axes
    return 'layers', *(self.axes[::-1] if self.ours.endswith('/kernel') else self.axes)


class Entry(NamedTuple):
  """A tensor of an open file."""

  file: Any
  name: str

  def shape(self) -> tuple[int, ...]:
    """Its shape, from the header."""
    return tuple(self.file.get_slice(self.name).get_shape())

  def kind(self) -> str:
    """What it holds, in the words of safetensors, from the header."""
    return self.file.get_slice(self.name).get_dtype()

  def read(self) -> np.ndarray:
    """Its values, in the type the file has them in."""
    return self.file.get_tensor(self.name)


@contextlib.contextmanager
def open_weights(path: str, todays_name: Callable[[str], str]) -> Iterator[dict[str, Entry]]:
  """Opens the weight files of a folder: a table of their tensors, under `todays_name` of their names there.

  Raises ValueError for files that are not whole.
  """
  entries = {}
  with contextlib.ExitStack() as stack:
    for file in _weight_files(Path(path)):
      try:
        opened = stack.enter_context(safetensors.safe_open(file, framework='numpy'))
      except safetensors.SafetensorError as error:
        raise ValueError(f'{file} is not a whole safetensors file ({error}); download it again') from error
      names = opened.keys()  # it is no mapping
      entries |= {todays_name(name): Entry(opened, name) for name in names}
    yield entries


def read_arrays(
  path: str, tensors: Sequence[Tensor], todays_name: Callable[[str], str], dtype: Any
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields path and value of each parameter of our network, one at a time, from files in order.

  They keep the type the file has them in, except that matrices and tables narrow to `dtype` where it is the
  narrower one, and float64 becomes float32.
  """
  with open_weights(path, todays_name) as weights:
    for tensor in tensors:
      entries = [weights[name] for name in tensor.names]
      kept = _kept(entries, np.float32 if len(tensor.shape) == 1 else dtype)
      if tensor.ours.startswith(STACK):
        yield tensor.ours, _stacked(entries, tensor.shape, kept, transposed=tensor.ours.endswith('/kernel'))
      else:
        yield tensor.ours, entries[0].read().astype(kept, copy=False)


def _stacked(entries: Sequence[Entry], shape: tuple[int, ...], kept: np.dtype, transposed: bool) -> np.ndarray:
  # Filled layer by layer: the largest stack of T5-11B has 6.4 GB, which should not be held twice.
  stack = np.empty((len(entries), *(shape[::-1] if transposed else shape)), kept)
  for layer, entry in zip(stack, entries, strict=True):
    layer[...] = entry.read().T if transposed else entry.read()
  return stack


def _kept(entries: Sequence[Entry], widest: Any) -> np.dtype:
  stored = {np.dtype(FLOATS[entry.kind()]) for entry in entries}
  common = stored.pop() if len(stored) == 1 else np.dtype(np.float32)
  return min(common, np.dtype(widest), key=lambda kind: kind.itemsize)


def _weight_files(folder: Path) -> list[Path]:
  if (folder / WEIGHTS).is_file():
    return [folder / WEIGHTS]
  index = folder / INDEX
  table = read_json(index, 'the index of weight files').get('weight_map')
  if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
    raise ValueError(f'{index} has no weight_map from tensors to files; download it again')
  names = sorted(set(table.values()))
  for name in names:
    if Path(name).name != name:
      raise ValueError(f'{index} names {name!r}, which is not a file beside it; download it again')
    if not (folder / name).is_file():
      raise ValueError(f'{index} names {name}, which is not beside it; download it from where the index is from')
  return [folder / name for name in names]


def read_json(file: Path, what: str) -> dict[str, Any]:
  """Returns the table a file holds; raises ValueError, which says that the file is not `what`."""
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{file} is not {what}: {error}; download it again') from error
  if not isinstance(values, dict):
    raise ValueError(f'{file} is not {what}: it holds no table of names; download it again')
  return values
