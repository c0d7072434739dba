"""The weight files of an encoder's folder, read tensor by tensor: one file, or several with an index.

Files of safetensors are preferred. Those of PyTorch are read without PyTorch, and nothing in them is executed.
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

from vdm_jax.tensor_files.stored_tensors import Stored
from vdm_jax.tensor_files.torch_file import open_torch
from vdm_jax.text.encoders.contract import Tensor

WEIGHTS = 'model.safetensors'
# A folder's weights are in the first of these files that it has. An index maps tensors to the files that hold them.
MAIN_FILES = (WEIGHTS, f'{WEIGHTS}.index.json', 'pytorch_model.bin', 'pytorch_model.bin.index.json')

# The supported types of tensors, and the type that each is loaded in.
FLOATS = {'F64': np.float32, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16}
_KINDS = {np.dtype(kind): name for name, kind in {**FLOATS, 'F64': np.float64}.items()}


class Entry(NamedTuple):
  """A tensor of an open file."""

  shape: Callable[[], tuple[int, ...]]  # from the header
  kind: Callable[[], str]  # its type as safetensors spells it ('F32', ...), from the header
  read: Callable[[], np.ndarray]  # its values in the type of the file


@contextlib.contextmanager
def open_weights(path: str, canonical_name: Callable[[str], str]) -> Iterator[dict[str, Entry]]:
  """Open the weight files of a folder and yield their tensors by canonical name.

  Raises:
    ValueError: a file is incomplete or missing.
  """
  entries = {}
  with contextlib.ExitStack() as stack:
    for file in _weight_files(Path(path)):
      opened = _open_safetensors(file, stack) if file.suffix == '.safetensors' else _open_torch(file)
      entries |= {canonical_name(name): entry for name, entry in opened.items()}
    yield entries


def _open_safetensors(file: Path, stack: contextlib.ExitStack) -> dict[str, Entry]:
  try:
    opened = stack.enter_context(safetensors.safe_open(file, framework='numpy'))
  except safetensors.SafetensorError as error:
    raise ValueError(f'{file} is not a complete safetensors file ({error}); download it again') from error

  def entry(name: str) -> Entry:
    return Entry(
      shape=lambda: tuple(opened.get_slice(name).get_shape()),
      kind=lambda: opened.get_slice(name).get_dtype(),
      read=lambda: opened.get_tensor(name),
    )

  names = opened.keys()  # safe_open is not a mapping
  return {name: entry(name) for name in names}


def _open_torch(file: Path) -> dict[str, Entry]:
  def entry(stored: Stored) -> Entry:
    kind = _KINDS.get(stored.kind, str(stored.kind))
    return Entry(shape=lambda: stored.shape, kind=lambda: kind, read=stored.read)

  return {name: entry(stored) for name, stored in open_torch(file).items()}


def read_arrays(
  path: str, tensors: Sequence[Tensor], canonical_name: Callable[[str], str], dtype: Any
) -> Iterator[tuple[str, np.ndarray]]:
  """Yield the path and value of each parameter, one at a time, from a folder that has been checked.

  Parameters keep the type of the file, with two exceptions: matrices and tables are narrowed to `dtype` where that is
  narrower, and float64 becomes float32.
  """
  with open_weights(path, canonical_name) as weights:
    for tensor in tensors:
      entries = [weights[name] for name in tensor.names]
      kept = _kept_type(entries, np.float32 if len(tensor.shape) == 1 else dtype)
      if tensor.stacked:
        yield tensor.parameter, _stack(entries, tensor.shape, kept, transposed=tensor.transposed)
      else:
        yield tensor.parameter, _read(entries[0], transposed=tensor.transposed).astype(kept, copy=False)


def _stack(entries: Sequence[Entry], shape: tuple[int, ...], kept: np.dtype, *, transposed: bool) -> np.ndarray:
  # Filled layer by layer: the largest stack of T5-11B has 6.4 GB, which should not be held twice.
  stack = np.empty((len(entries), *(shape[::-1] if transposed else shape)), kept)
  for layer, entry in zip(stack, entries, strict=True):
    layer[...] = _read(entry, transposed=transposed)
  return stack


def _read(entry: Entry, *, transposed: bool) -> np.ndarray:
  return entry.read().T if transposed else entry.read()


def _kept_type(entries: Sequence[Entry], widest: Any) -> np.dtype:
  stored = {np.dtype(FLOATS[entry.kind()]) for entry in entries}
  common = stored.pop() if len(stored) == 1 else np.dtype(np.float32)
  return min(common, np.dtype(widest), key=lambda kind: kind.itemsize)


def main_file(path: str) -> Path | None:
  """Return the file of weights in a folder, or the index of several; None if there is neither."""
  return next((file for name in MAIN_FILES if (file := Path(path) / name).is_file()), None)


def _weight_files(folder: Path) -> list[Path]:
  index = main_file(str(folder))
  if index is None:
    raise ValueError(f'{folder} has none of {", ".join(MAIN_FILES)}; download one of them')
  if index.suffix != '.json':
    return [index]
  table = read_json(index, 'an index of weight files').get('weight_map')
  if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
    raise ValueError(f'{index} has no valid weight_map from tensors to files; download it again')
  names = sorted(set(table.values()))
  for name in names:
    if Path(name).name != name:
      raise ValueError(f'{index} names {name!r}, which is outside its folder; download it again')
    if not (folder / name).is_file():
      raise ValueError(f'{index} names {name}, which is missing; download it from the same place as the index')
  return [folder / name for name in names]


def read_json(file: Path, what: str) -> dict[str, Any]:
  """Return the object in a JSON file.

  Args:
    file: the file.
    what: what it should hold, such as 'a tokenizer', for the error message.

  Raises:
    ValueError: the file does not hold a JSON object.
  """
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{file} is not {what}: {error}; download it again') from error
  if not isinstance(values, dict):
    raise ValueError(f'{file} is not {what}: it does not hold a JSON object; download it again')
  return values
