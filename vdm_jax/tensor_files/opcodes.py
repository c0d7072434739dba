"""Hand-written pickle interpreter for torch files: `pickle` and `torch.load` execute code that a file requests.

A pickle is a program for a stack machine. The standard library's disassembler reads it one instruction at a time, and
the machine here knows only the instructions that torch writes. It builds dictionaries, lists, and descriptions of
tensors and modules; it never imports, calls or allocates what the file requests.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

MAX_OPCODES = 200_000  # a file of a thousand tensors has about 50,000


class Global(NamedTuple):
  """An imported name in the file."""

  module: str
  name: str

  def __str__(self) -> str:
    return f'{self.module}.{self.name}'


class Storage(NamedTuple):
  """A contiguous array of values in the file."""

  kind: str  # FloatStorage, HalfStorage, ...
  key: str
  length: int


class View(NamedTuple):
  """A tensor: a view of a storage."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Module:
  """A TorchScript module: its attributes by name."""

  def __init__(self):
    self.attributes: dict[str, Any] = {}


_MARK = object()
_REBUILD = {'_rebuild_tensor', '_rebuild_tensor_v2'}
_LISTS = {'build_boollist', 'build_doublelist', 'build_intlist', 'build_tensorlist', 'restore_type_tag'}


class Refused(ValueError):
  """The file is valid, but requests something that weights do not need."""


def run(stream: BinaryIO) -> Any:
  """Return the value of the next pickle in `stream`, and leave the stream after it.

  Raises:
    ValueError: an instruction or a name that weights do not need, or an incomplete pickle.
  """
  machine = _Machine()
  try:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
      if opcode.name == 'STOP':
        (value,) = machine.stack
        return value
      if count >= MAX_OPCODES:
        raise Refused(f'has more than {MAX_OPCODES} instructions, far more than weights need')
      if opcode.name not in _HANDLERS:
        raise Refused(f'has the instruction {opcode.name}, which torch does not write')
      _HANDLERS[opcode.name](machine, argument)
  except Refused:
    raise
  except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
    raise ValueError(f'is damaged ({error or type(error).__name__})') from error
  raise ValueError('is damaged (it has no STOP instruction)')


class _Machine:
  def __init__(self):
    self.stack: list[Any] = []
    self.memo: dict[int, Any] = {}

  def since_mark(self) -> list[Any]:
    last = len(self.stack) - 1
    while self.stack[last] is not _MARK:
      last -= 1
      if last < 0:
        raise IndexError
    items = self.stack[last + 1 :]
    del self.stack[last:]
    return items

  def pop(self, count: int) -> list[Any]:
    if count > len(self.stack):
      raise IndexError
    items = self.stack[len(self.stack) - count :]
    del self.stack[len(self.stack) - count :]
    return items


def _mention(machine: _Machine, argument: str) -> None:
  module, _, name = argument.partition(' ')
  known = (
    (module, name) == ('collections', 'OrderedDict')
    or (module == 'torch' and name.endswith('Storage') and name.isidentifier())
    or (module == 'torch._utils' and name in _REBUILD | {'_rebuild_parameter'})
    or (module == 'torch.jit._pickle' and name in _LISTS)
    or module.split('.')[0] == '__torch__'
  )
  if not known:
    raise Refused(f'requests {module}.{name}, which weights do not need')
  machine.stack.append(Global(module, name))


def _reduce(machine: _Machine, _: Any) -> None:
  function, arguments = machine.pop(2)
  if not isinstance(function, Global) or not isinstance(arguments, tuple):
    raise TypeError
  if function.name == 'OrderedDict':
    value: Any = {}
    _add_pairs(value, [item for pair in (arguments[0] if arguments else ()) for item in pair])
  elif function.name in _REBUILD:
    value = _view(*arguments[:4])
  elif function.name in _LISTS | {'_rebuild_parameter'}:
    value = arguments[0]
  else:
    raise Refused(f'calls {function}, which weights do not need')
  machine.stack.append(value)


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> View:
  numbers = (offset, *shape, *strides)
  if not isinstance(storage, Storage) or len(shape) != len(strides):
    raise TypeError
  if any(type(number) is not int or number < 0 for number in numbers):
    raise Refused(f'has a tensor of shape {shape} and strides {strides} at {offset}, which is not a valid tensor')
  return View(storage, offset, tuple(shape), tuple(strides))


def _make(machine: _Machine, _: Any) -> None:
  kind, _ = machine.pop(2)
  if not isinstance(kind, Global) or not kind.module.startswith('__torch__'):
    raise Refused(f'creates a {kind}, which weights do not need')
  machine.stack.append(Module())


def _build(machine: _Machine, _: Any) -> None:
  (state,) = machine.pop(1)
  target = machine.stack[-1]
  if isinstance(target, Module):
    _add_pairs(target.attributes, [item for pair in state.items() for item in pair])
  elif not isinstance(target, dict):  # attributes of an OrderedDict are ignored
    raise TypeError


def _refer(machine: _Machine, _: Any) -> None:
  ((label, kind, key, _, length, *view),) = machine.pop(1)
  if label != 'storage' or not isinstance(kind, Global) or any(part is not None for part in view):
    raise Refused(f'refers to {label!r} outside the file, which weights do not need')
  if type(length) is not int or length < 0 or not isinstance(key, str):
    raise Refused(f'has a storage {key!r} of {length} values, which is not a valid storage')
  machine.stack.append(Storage(kind.name, key, length))


def _add_pairs(target: dict, items: list[Any]) -> None:
  for key, value in zip(items[::2], items[1::2], strict=True):
    if not isinstance(key, str | int):  # hashing an endlessly nested tuple would overflow the stack
      raise TypeError(f'a key is a {type(key).__name__}')
    if key in target:
      raise Refused(f'has two values for {key!r}')
    target[key] = value


def _set_items(machine: _Machine, _: Any) -> None:
  items = machine.since_mark()
  _add_pairs(_container(machine, dict), items)


def _set_item(machine: _Machine, _: Any) -> None:
  items = machine.pop(2)
  _add_pairs(_container(machine, dict), items)


def _append(machine: _Machine, _: Any) -> None:
  items = machine.pop(1)
  _container(machine, list).extend(items)


def _appends(machine: _Machine, _: Any) -> None:
  items = machine.since_mark()
  _container(machine, list).extend(items)


def _container(machine: _Machine, kind: type) -> Any:
  if not isinstance(machine.stack[-1], kind):
    raise TypeError
  return machine.stack[-1]


def _push(value: Any = None) -> Callable[[_Machine, Any], None]:
  return lambda machine, argument: machine.stack.append(argument if value is None else value())


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
  return lambda machine, _: machine.stack.append(tuple(machine.pop(count)))


def _remember(machine: _Machine, argument: int) -> None:
  machine.memo[argument] = machine.stack[-1]


def _recall(machine: _Machine, argument: int) -> None:
  machine.stack.append(machine.memo[argument])


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
  'PROTO': lambda machine, argument: None,
  'MARK': _push(lambda: _MARK),
  'NONE': lambda machine, _: machine.stack.append(None),
  'NEWTRUE': _push(lambda: True),
  'NEWFALSE': _push(lambda: False),
  'EMPTY_TUPLE': _push(tuple),
  'EMPTY_LIST': _push(list),
  'EMPTY_DICT': _push(dict),
  'TUPLE': lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
  'GLOBAL': _mention,
  'REDUCE': _reduce,
  'NEWOBJ': _make,
  'BUILD': _build,
  'BINPERSID': _refer,
  'SETITEM': _set_item,
  'SETITEMS': _set_items,
  'APPEND': _append,
  'APPENDS': _appends,
  **{f'TUPLE{n}': _tuple_of(n) for n in (1, 2, 3)},
  **dict.fromkeys(('BINPUT', 'LONG_BINPUT'), _remember),
  **dict.fromkeys(('BINGET', 'LONG_BINGET'), _recall),
  **dict.fromkeys(('BINUNICODE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT'), _push()),
}
