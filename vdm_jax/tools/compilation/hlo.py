"""Parsing the text of a compiled program into computations and instructions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {
  'pred': 1,
  's8': 1,
  'u8': 1,
  's16': 2,
  'u16': 2,
  's32': 4,
  'u32': 4,
  's64': 8,
  'u64': 8,
  'f16': 2,
  'bf16': 2,
  'f32': 4,
  'f64': 8,
  'c64': 8,
  'c128': 16,
  'f8e4m3fn': 1,
  'f8e5m2': 1,
}

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_SHAPE = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?')
_OPERAND = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(r'\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


class Shape(NamedTuple):
  """One array; `in_memory` is False if the compiler keeps it in scratch memory on the chip."""

  dtype: str
  dims: tuple[int, ...]
  in_memory: bool

  @property
  def bytes(self) -> int:
    return BYTES.get(self.dtype, 0) * math.prod(self.dims)


class Instruction(NamedTuple):
  """One line of a computation; `shapes` has one entry per array of the result, `operands` are names."""

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  argument: str  # the text in parentheses: value of a constant, number of a parameter
  attributes: str

  def called(self) -> dict[str, str]:
    """Return attribute -> computation for loops, fusions and calls."""
    return dict(_CALLED.findall(self.attributes))

  def branches(self) -> list[str]:
    """Return the alternatives of a conditional."""
    listed = _BRANCHES.search(self.attributes)
    if listed:
      return _OPERAND.findall(listed.group(1))
    called = self.called()
    return [called[key] for key in ('true_computation', 'false_computation') if key in called]


class Computation(NamedTuple):
  name: str
  instructions: dict[str, Instruction]
  root: str


class Program(NamedTuple):
  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Program:
  """Parse `compiled.as_text()`; raises ValueError if there is no entry computation."""
  computations: dict[str, Computation] = {}
  entry, name, body, root = '', '', {}, ''
  for line in text.splitlines():
    if match := _INSTRUCTION.match(line):
      instruction = _instruction(match.group(2), line[match.end() :])
      body[instruction.name] = instruction
      root = instruction.name if match.group(1) else root
    elif match := _COMPUTATION.match(line):
      name, body, root = match.group(2), {}, ''
      entry = name if match.group(1) else entry
    elif line.startswith('}') and name:
      computations[name] = Computation(name, body, root)
      name = ''
  if entry not in computations:
    raise ValueError('the text of the compiled program has no entry computation.')
  return Program(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
  end = _closing(rest, 0) if rest.startswith('(') else rest.index(' ')
  opened = rest.index('(', end)
  closed = _closing(rest, opened)
  argument = rest[opened + 1 : closed - 1]
  return Instruction(
    name,
    rest[end:opened].strip(),
    tuple(_shapes(rest[:end])),
    tuple(_OPERAND.findall(argument)),
    argument,
    rest[closed:],
  )


def _shapes(text: str) -> Iterator[Shape]:
  for dtype, dims, layout in _SHAPE.findall(text):
    sizes = tuple(int(size) for size in dims.split(',') if size)
    space = re.search(r'S\((\d+)\)', layout)
    yield Shape(dtype, sizes, not space or space.group(1) == '0')


def _closing(text: str, start: int) -> int:
  """Return the index after the parenthesis that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] == '(') - (text[place] == ')')
    if not depth:
      return place + 1
  raise ValueError(f'the compiled program has no closing parenthesis for {text[start : start + 80]!r}')
