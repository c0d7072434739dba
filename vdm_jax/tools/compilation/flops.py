"""Model FLOPs: floating-point operations of a function's matrix products and convolutions, counted from its jaxpr.

XLA's own `cost_analysis` is unsuitable for model FLOPs utilization: it counts the body of a scan once, and counts what
rematerialization repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters import partial_eval


def model_flops(function: Callable[..., Any], *args: Any) -> int:
  """Return the FLOPs of `function(*args)`: two per multiply-add of matrix products and convolutions.

  The function is only traced. The body of a scan counts once per iteration, a branch as its most expensive
  alternative. Elementwise operations, unused results and what rematerialization repeats are not counted. A convolution
  counts every tap, also on padding, but not on the zeros of dilation, so each of its gradients costs as much as itself.

  Args:
    function: any traceable function, such as one with gradients inside.
    *args: arrays or `jax.ShapeDtypeStruct`s.

  Raises:
    ValueError: a product is inside a `while_loop`, whose number of iterations is unknown.

  >>> a, b = jax.ShapeDtypeStruct((2, 3), 'float32'), jax.ShapeDtypeStruct((3, 5), 'float32')
  >>> model_flops(lambda a, b: a @ b, a, b)
  60
  """
  return jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def jaxpr_flops(jaxpr: Jaxpr, *, recomputed: bool = False) -> int:
  """Return `model_flops` of a traced function; with `recomputed`, repeats by rematerialization count too."""
  live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(live, recomputed)


def _count(jaxpr: Jaxpr, recomputed: bool) -> int:
  return sum(_count_one(equation, recomputed) for equation in jaxpr.eqns)


def _count_one(equation: JaxprEqn, recomputed: bool) -> int:
  name = equation.primitive.name
  # JAX marks everything that a backward pass recomputes by this name.
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
    raise ValueError('the FLOPs of a while_loop with products inside are unknown: write it as a scan.')
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
  """Yield the jaxprs inside an equation: bodies of loops, branches, jitted and custom-gradient functions."""
  for value in equation.params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, Jaxpr):
        yield item
