"""Costs of one run of a compiled program per device: FLOPs, memory traffic and collectives.

XLA's own analysis counts the body of a loop once; here it counts once per iteration.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vdm_jax.tools.compilation.hlo import Computation, Instruction, Program, Shape, parse

# Instructions without memory traffic of their own.
_FREE = {
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'after-all',
  'partition-id',
  'replica-id',
  'domain',
  'while',
  'conditional',
  'call',
  'async-start',
  'async-update',
  'opt-barrier',
  'add-dependency',
  'get-dimension-size',
}
_NO_OPERATION = ('AllocateBuffer', 'AssumeGatherIndicesInBound', 'Sharding')
# Bytes that each of n devices sends per byte of its operand, with ring algorithms.
_SENT: dict[str, Callable[[int], float]] = {
  'all-reduce': lambda n: 2 * (n - 1) / n,
  'all-gather': lambda n: n - 1,
  'reduce-scatter': lambda n: (n - 1) / n,
  'all-to-all': lambda n: (n - 1) / n,
  'ragged-all-to-all': lambda n: (n - 1) / n,
  'collective-broadcast': lambda n: 1,
  'collective-permute': lambda n: 1,
}


class Costs(NamedTuple):
  """Costs of one run on one device."""

  flops: float = 0.0  # two per multiply-add of products and convolutions, recomputation included
  memory_bytes: float = 0.0  # read from and written to the device's memory, assuming no cache
  collective_bytes: float = 0.0  # sent to other devices, with ring algorithms

  def __add__(self, other: Costs) -> Costs:  # type: ignore[override]
    return Costs(*(a + b for a, b in zip(self, other, strict=True)))

  def times(self, count: float) -> Costs:
    return Costs(*(count * value for value in self))


def costs(text: str, devices: int) -> Costs:
  """Return the costs of a program from its text, `compiled.as_text()`, on a number of devices.

  Raises:
    ValueError: the number of iterations of a loop cannot be found in the text.
  """
  return _Counter(parse(text), devices).of(None)


class _Counter:
  """Costs of the computations of one program, memoized."""

  def __init__(self, program: Program, devices: int) -> None:
    self._program, self._devices = program, devices
    self._known: dict[tuple[str, bool], Costs] = {}

  def of(self, name: str | None, fused: bool = False) -> Costs:
    """Return the costs of a computation, the entry if None; a fused one has no memory traffic inside."""
    name = name or self._program.entry
    if (name, fused) not in self._known:
      computation = self._program.computations[name]
      parts = [self._one(instruction, computation, fused) for instruction in computation.instructions.values()]
      self._known[name, fused] = functools.reduce(Costs.__add__, parts, Costs())
    return self._known[name, fused]

  def _one(self, instruction: Instruction, computation: Computation, fused: bool) -> Costs:
    opcode, called = instruction.opcode, instruction.called()
    if opcode == 'while':
      body = self.of(called['body'], fused)
      return body.times(_trips(instruction, computation, self._program)) if any(body) else body
    if opcode == 'conditional':
      branches = [self.of(name, fused) for name in instruction.branches()]
      return Costs(*(max(values) for values in zip(*branches, strict=True)))
    found = Costs(flops=_flops(instruction, computation), collective_bytes=self._sent(instruction, computation))
    if opcode == 'fusion':
      found += self.of(called['calls'], True)
    elif opcode in ('call', 'async-start'):
      found += self.of(called.get('to_apply') or called['calls'], fused)
    moves = not fused and opcode not in _FREE and not opcode.endswith('-done')
    return found + Costs(memory_bytes=self._moved(instruction, computation)) if moves else found

  def _sent(self, instruction: Instruction, computation: Computation) -> float:
    opcode = instruction.opcode.removesuffix('-start')
    if opcode not in _SENT:
      return 0.0
    # On TPU a reduce-scatter is an all-reduce in a fusion of this name.
    if 'all-reduce-scatter' in computation.name:
      opcode = 'reduce-scatter'
    size = sum(shape.bytes for shape in _operands(instruction, computation))
    return size * _SENT[opcode](_group(instruction.attributes, self._devices))

  def _moved(self, instruction: Instruction, computation: Computation) -> float:
    if instruction.opcode == 'custom-call' and any(name in instruction.attributes for name in _NO_OPERATION):
      return 0.0
    inputs, outputs = _operands(instruction, computation), list(instruction.shapes)
    if instruction.opcode.endswith('-start'):  # the result includes the operands
      return max(_in_memory(outputs) - _in_memory(inputs), 0) + _in_memory(inputs)
    if instruction.opcode in ('dynamic-slice', 'slice', 'gather'):
      return 2 * _in_memory(outputs)
    if instruction.opcode == 'dynamic-update-slice':
      return 2 * _in_memory(inputs[1:2])
    if instruction.opcode == 'fusion':
      return _moved_by_fusion(instruction, inputs, self._program.computations[instruction.called()['calls']])
    return _in_memory(inputs) + _in_memory(outputs)


def _moved_by_fusion(instruction: Instruction, inputs: Sequence[Shape], inner: Computation) -> float:
  """Return the memory traffic of a fusion: operands and results, of sliced or updated arrays only that part."""
  total, updated = float(_in_memory(instruction.shapes)), set()
  for update in inner.instructions.values():
    if update.opcode == 'dynamic-update-slice':
      source = _source(update.operands[0], inner)
      part = inner.instructions[update.operands[1]].shapes[0].bytes
      whole = update.shapes[0]
      if any(shape.dims == whole.dims and shape.in_memory for shape in instruction.shapes):
        total += part - whole.bytes
      updated.add(source)
  users: dict[str, list[Instruction]] = {}
  for user in inner.instructions.values():
    for operand in user.operands:
      users.setdefault(operand, []).append(user)
  for parameter in inner.instructions.values():
    if parameter.opcode != 'parameter' or parameter.name in updated:
      continue
    shape = inputs[int(parameter.argument)] if int(parameter.argument) < len(inputs) else parameter.shapes[0]
    uses = users.get(parameter.name, [])
    if uses and all(use.opcode in ('dynamic-slice', 'slice') for use in uses):
      total += sum(use.shapes[0].bytes for use in uses) if shape.in_memory else 0
    else:
      total += _in_memory([shape])
  return max(total, 0.0)


def _source(name: str, computation: Computation) -> str:
  """Return the name of the array before changes of type and shape."""
  while (step := computation.instructions[name]).opcode in ('bitcast', 'convert', 'copy', 'reshape'):
    name = step.operands[0]
  return name


def _operands(instruction: Instruction, computation: Computation) -> list[Shape]:
  known = computation.instructions
  return [shape for name in instruction.operands if name in known for shape in known[name].shapes]


def _in_memory(shapes: Sequence[Shape]) -> int:
  return sum(shape.bytes for shape in shapes if shape.in_memory)


def _group(attributes: str, devices: int) -> int:
  """Return the size of a collective's groups of devices; raises ValueError if their notation is unknown."""
  if match := re.search(r'replica_groups=\[(\d+),(\d+)\]', attributes):
    return int(match.group(2))
  if match := re.search(r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^)]*\)[^{]*)?\s*\{([^}]*)\}', attributes):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match.group(1))}
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match.group(2))
    return math.prod(int(part) if part else sizes[name] for name, part in axes)
  if match := re.search(r'replica_groups=\{\{([\d,]+)\}', attributes):
    return len(match.group(1).split(','))
  if match := re.search(r'replica_groups=(?!\{\}).{0,80}', attributes):
    raise ValueError(f'the compiled program has replica groups in an unknown notation: {match.group(0)}')
  return devices


# ---- products --------------------------------------------------------------------------------------------------------


def _flops(instruction: Instruction, computation: Computation) -> float:
  if instruction.opcode == 'dot':
    left = _operands(instruction, computation)[0].dims
    contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.attributes)
    axes = [int(axis) for axis in contracted.group(1).split(',') if axis] if contracted else []
    return 2.0 * math.prod(instruction.shapes[0].dims) * math.prod(left[axis] for axis in axes)
  if instruction.opcode == 'convolution':
    return _convolution(instruction, *_operands(instruction, computation)[:2])
  return 0.0


def _convolution(instruction: Instruction, image: Shape, kernel: Shape) -> float:
  """Count the taps that meet a value: none on padding or between the values of a dilated input."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes).groups()
  output, window = instruction.shapes[0].dims, _window(instruction.attributes)
  flops = 2.0 * kernel.dims[labels[1].index('i')]
  flops *= output[labels[2].index('b')] * output[labels[2].index('f')]
  for axis in range(len(labels[0]) - 2):
    sizes = (shape[label.index(str(axis))] for shape, label in zip((image.dims, output), labels[::2], strict=True))
    flops *= _taps(*sizes, *(values[axis] if values else default for values, default in window))
  return flops


def _window(attributes: str) -> list[tuple[list, int | tuple[int, int]]]:
  """Return size, stride, leading padding, and dilation of input and kernel: each a list over axes and its default."""
  text = re.search(r'window=\{([^}]*)\}', attributes)
  given = dict(part.split('=') for part in text.group(1).split()) if text else {}

  def numbers(name: str) -> list[int]:
    return [int(value.split('_')[0]) for value in given[name].split('x')] if name in given else []

  return [
    (numbers('size'), 1),
    (numbers('stride'), 1),
    (numbers('pad'), 0),
    (numbers('lhs_dilate'), 1),
    (numbers('rhs_dilate'), 1),
  ]


@functools.cache
def _taps(image: int, output: int, size: int, stride: int, padding: int, spread: int, kernel_spread: int) -> int:
  """Return the number of pairs of output and kernel positions along one axis that meet an input value."""
  count, length = 0, (image - 1) * spread + 1
  for tap in range(size):
    first = tap * kernel_spread - padding
    if stride == 1 and spread == 1:
      count += max(0, min(output, length - first) - max(0, -first))
    else:
      places = range(first, first + output * stride, stride)
      count += sum(0 <= place < length and place % spread == 0 for place in places)
  return count


# ---- loops -----------------------------------------------------------------------------------------------------------


def _trips(loop: Instruction, computation: Computation, program: Program) -> int:
  """Return the iterations of a loop: XLA's annotation if present, else from its counter's start, step and end."""
  if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(match.group(1))
  called = loop.called()
  condition, body = program.computations[called['condition']], program.computations[called['body']]
  test = condition.instructions[condition.root]
  operands = test.operands
  if test.opcode == 'fusion':  # map the operands of the comparison inside to those of the fusion
    inner = program.computations[test.called()['calls']]
    test = inner.instructions[inner.root]
    operands = [
      operands[int(inner.instructions[_source(name, inner)].argument)]
      if inner.instructions[_source(name, inner)].opcode == 'parameter'
      else name
      for name in test.operands
    ]
    constants = condition.instructions | {k: v for k, v in inner.instructions.items() if v.opcode == 'constant'}
  else:
    constants = condition.instructions
  if test.opcode == 'compare' and 'direction=LT' in test.attributes:
    counter = constants[_source(operands[0], condition)] if operands[0] in condition.instructions else None
    end = _constant(operands[1], constants)
    index = counter and re.search(r'index=(\d+)', counter.attributes)
    if end is not None and index:
      place = int(index.group(1))
      start = _constant(_element(loop.operands[0], place, computation), computation.instructions)
      return max(0, -(-(end - (start or 0)) // _step(place, body)))
  raise ValueError(f'the compiled program has no known number of iterations for the loop {loop.name}.')


def _element(name: str, place: int, computation: Computation) -> str:
  """Return the name of one element of a tuple."""
  made = computation.instructions[name]
  return made.operands[place] if made.opcode == 'tuple' else ''


def _step(place: int, body: Computation) -> int:
  """Return the increment of a loop's counter."""
  name = _element(body.root, place, body)
  while name and body.instructions[name].opcode in ('copy', 'bitcast'):
    name = body.instructions[name].operands[0]
  if name and body.instructions[name].opcode in ('add', 'fusion'):
    steps = [_constant(operand, body.instructions) for operand in body.instructions[name].operands]
    return next((step for step in steps if step), 1)
  return 1


def _constant(name: str, instructions: dict[str, Instruction]) -> int | None:
  while name in instructions and instructions[name].opcode in ('copy', 'bitcast'):
    name = instructions[name].operands[0]
  found = instructions.get(name)
  if found is None or found.opcode != 'constant' or not re.fullmatch(r'-?\d+', found.argument):
    return None
  return int(found.argument)
