"""Hand-written reader of torch files: it needs no torch installation, and torch's own loader may execute a file's code.

Reads state dictionaries and TorchScript. The current format is a zip file with a pickle (`data.pkl`) and a member for
each storage. The format before torch 1.6 is five pickles in a row, followed by the storages. Nothing in a file is
executed: see `opcodes`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vdm_jax.tensor_files import opcodes
from vdm_jax.tensor_files.stored_tensors import Stored, open_archive, read_member

KINDS = {
  'FloatStorage': '<f4',
  'DoubleStorage': '<f8',
  'HalfStorage': '<f2',
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': '<i8',
  'IntStorage': '<i4',
  'ShortStorage': '<i2',
  'CharStorage': 'i1',
  'ByteStorage': 'u1',
  'BoolStorage': '?',
}
MAX_PICKLE = 2**24  # bytes; a thousand tensors take about 2**17
MAX_DEPTH = 40
OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_VERSION = 1001


def open_torch(path: Path) -> dict[str, Stored]:
  """Return name -> tensor, in the order of the file; names of nested modules are joined by dots.

  Raises:
    ValueError: the file requests anything but tensors, or is incomplete.
  """
  try:
    if zipfile.is_zipfile(path):
      return _open_zip(path)
    with path.open('rb') as stream:
      return _open_old(path, stream)
  except ValueError as error:
    reason = str(error)
    if reason.startswith(str(path)):
      raise
    raise ValueError(
      f'{path} {reason}. Nothing in it was executed; download it again from the project that publishes it'
    ) from error


def _open_zip(path: Path) -> dict[str, Stored]:
  with open_archive(path) as archive:
    members = {member.filename: member for member in archive.infolist()}
  pickles = [name for name in members if name.count('/') == 1 and name.endswith('/data.pkl')]
  if len(pickles) != 1:
    raise ValueError('is a zip file without exactly one data.pkl, so it was not written by torch')
  root = pickles[0].removesuffix('/data.pkl')
  order = f'{root}/byteorder'
  if order in members and members[order].file_size < 16 and read_member(path, order) != b'little':
    raise ValueError('was written on a big-endian machine, which is not supported')
  needed = (member for name, member in members.items() if name == pickles[0] or name.startswith(f'{root}/data/'))
  if any(member.compress_type != zipfile.ZIP_STORED for member in needed):
    raise ValueError('is a zip file with compressed storages, so it was not written by torch')
  if members[pickles[0]].file_size > MAX_PICKLE:
    raise ValueError(f'has a data.pkl of {members[pickles[0]].file_size} bytes, far more than weights need')
  tree = opcodes.run(io.BytesIO(read_member(path, pickles[0])))

  def storage_bytes(storage: opcodes.Storage) -> Callable[[], bytes]:
    name = f'{root}/data/{storage.key}'
    size = storage.length * _kind(storage).itemsize
    if name not in members or members[name].file_size != size:
      raise ValueError(f'has no storage {storage.key!r} of {size} bytes, to which it refers')
    return lambda: read_member(path, name)

  return _tensors(tree, storage_bytes)


def _open_old(path: Path, stream: BinaryIO) -> dict[str, Stored]:
  if stream.read(1) != b'\x80':
    raise ValueError('is not a file written by torch')
  stream.seek(0)
  if (opcodes.run(stream), opcodes.run(stream)) != (OLD_MAGIC, OLD_VERSION):
    raise ValueError('is not a weight file written by torch')
  system = opcodes.run(stream)
  if not isinstance(system, dict) or system.get('little_endian') is not True:
    raise ValueError('was written on a big-endian machine, which is not supported')
  tree, keys = opcodes.run(stream), opcodes.run(stream)
  storages = {view.storage.key: view.storage for _, view in _views(tree)}
  places, at, end = {}, stream.tell(), path.stat().st_size
  for key in keys:
    if not isinstance(key, str) or key not in storages:
      raise ValueError('has a storage to which it does not refer')
    size = storages[key].length * _kind(storages[key]).itemsize
    stream.seek(at)
    if int.from_bytes(stream.read(8), 'little') != storages[key].length or at + 8 + size > end:
      raise ValueError(f'has no storage {key!r} of {size} bytes, to which it refers')
    places[key] = (at + 8, size)
    at += 8 + size

  def storage_bytes(storage: opcodes.Storage) -> Callable[[], bytes]:
    if storage.key not in places or storages[storage.key] != storage:
      raise ValueError(f'has no storage {storage.key!r}, to which it refers')
    place, size = places[storage.key]

    def read() -> bytes:
      with path.open('rb') as again:
        again.seek(place)
        return again.read(size)

    return read

  return _tensors(tree, storage_bytes)


def _tensors(tree: Any, storage_bytes: Callable[[opcodes.Storage], Callable[[], bytes]]) -> dict[str, Stored]:
  found = {}
  for name, view in _views(tree):
    if name in found:
      raise ValueError(f'has two tensors {name!r}')
    found[name] = _stored(name, view, storage_bytes(view.storage))
  if not found:
    raise ValueError('has no tensors')
  return found


def _stored(name: str, view: opcodes.View, read_bytes: Callable[[], bytes]) -> Stored:
  kind, count, last = _kind(view.storage), 1, view.offset
  for size, stride in zip(view.shape, view.strides, strict=True):
    count *= size
    last += max(size - 1, 0) * stride
  if count > view.storage.length or (count and last >= view.storage.length):
    raise ValueError(f'has a tensor {name} of shape {view.shape} in a storage of {view.storage.length} values')

  def read() -> np.ndarray:
    array = np.frombuffer(read_bytes(), kind)
    strides = [stride * kind.itemsize for stride in view.strides]
    if not count:
      return np.empty(view.shape, kind)
    return np.lib.stride_tricks.as_strided(array[view.offset :], view.shape, strides, writeable=False)

  return Stored(view.shape, kind, read)


def _kind(storage: opcodes.Storage) -> np.dtype:
  if storage.kind not in KINDS:
    raise ValueError(f'has a torch.{storage.kind}, which is not supported')
  return np.dtype(KINDS[storage.kind])


def _views(tree: Any) -> Iterator[tuple[str, opcodes.View]]:
  """Yield every tensor below `tree` with its name, each container once, in order."""
  seen: set[int] = set()

  def visit(node: Any, name: str, depth: int) -> Iterator[tuple[str, opcodes.View]]:
    if isinstance(node, opcodes.View):
      yield name, node
    elif isinstance(node, dict | list | opcodes.Module) and id(node) not in seen:
      seen.add(id(node))
      if depth > MAX_DEPTH:
        raise ValueError(f'is nested more than {MAX_DEPTH} deep')
      node = node.attributes if isinstance(node, opcodes.Module) else node
      for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield from visit(child, f'{name}.{key}' if name else str(key), depth + 1)

  yield from visit(tree, '', 0)
