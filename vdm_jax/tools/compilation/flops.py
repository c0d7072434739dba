"""Model FLOPs: what a function's matrix products and convolutions need, counted from its jaxpr.

XLA's own `cost_analysis` counts the body of a scan once and what rematerialisation repeats again; neither is what a
model's utilisation is measured by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters import partial_eval


def model_flops(function: Callable[..., Any], *args: Any) -> int:
  """FLOPs of `function(*args)`: two per multiply-add of its matrix products and convolutions, gradients included.

  The function is only traced: arguments may be `jax.ShapeDtypeStruct`s. The body of a scan counts as often as it runs,
  a branch as its dearest alternative. Not counted are elementwise operations, results that nothing uses, and what
  rematerialisation computes a second time. A convolution counts every tap, those on padding too, but not on the zeros
  of dilation, so both of its gradients cost as much as itself.

  Raises ValueError for a product inside a `while_loop`, which may run any number of times.
  """
  return jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def jaxpr_flops(jaxpr: Jaxpr, *, recomputed: bool = False) -> int:
  """`model_flops` of a traced function; with `recomputed`, what rematerialisation repeats counts too."""
  live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(live, recomputed)


def _count(jaxpr: Jaxpr, recomputed: bool) -> int:
  return sum(_count_one(equation, recomputed) for equation in jaxpr.eqns)


def _count_one(equation: JaxprEqn, recomputed: bool) -> int:
  name = equation.primitive.name
  # JAX writes this into the name of everything that a backward pass recomputes.
  if not recomputed and 'rematted_computation' in str(equation.source_info.name_stack):
    return 0
  if name == 'dot_general':
    return 2 * _dot_general(equation)
  if name == 'conv_general_dilated':
    return 2 * _convolution(equation)
  parts = [_count(inner, recomputed) for inner in _inner(equation)]
  if name == 'scan':
    return equation.params['length'] * sum(parts)
  if name == 'cond':
    return max(parts)
  if name == 'while' and sum(parts):
    raise ValueError('a while_loop with products inside has no known number of FLOPs: write it as a scan.')
  return sum(parts)


def _dot_general(equation: JaxprEqn) -> int:
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  return math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: JaxprEqn) -> int:
  kernel = equation.invars[1].aval.shape
  _, features, *window = equation.params['dimension_numbers'].rhs_spec
  taps = math.prod(equation.outvars[0].aval.shape) * kernel[features] * math.prod(kernel[i] for i in window)
  return taps // math.prod(equation.params['lhs_dilation'])


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
  """The jaxprs that an equation runs: bodies of loops, branches, jitted and custom-gradient functions."""
  for value in equation.params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, Jaxpr):
        yield item
