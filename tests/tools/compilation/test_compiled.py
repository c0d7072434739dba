"""Memory of compiled programs, and out-of-memory messages of the compiler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from vdm_jax.tools.compilation.compiled import compile_program
from vdm_jax.tools.compilation.programs import Program
from vdm_jax.tools.compilation.targets import open_target


class Refuses:
  """A traced program whose compilation fails with a message."""

  def __init__(self, message: str):
    self.jaxpr = jax.make_jaxpr(lambda x: x @ x)(jnp.zeros((4, 4)))
    self._message = message

  def lower(self):
    return self

  def compile(self, compiler_options=None):
    raise jax.errors.JaxRuntimeError(self._message)


@pytest.mark.parametrize(
  ('message', 'needed'),
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (149.25G) exceeds '
      'available HBM (30.75G).',
      149.25 * 2**30,
    ),
    ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 1.50T of 95.74G hbm.\nmore', 1.5 * 2**40),
  ],
)
def test_out_of_memory_is_a_result(message, needed):
  compiled = compile_program(Program(Refuses(message), ()), open_target('here'))
  assert (compiled.peak_bytes, compiled.fits, compiled.costs) == (needed, False, None)
  assert compiled.flops == 2 * 4 * 4 * 4
  assert compiled.message == message.splitlines()[0]


def test_other_errors_of_the_compiler_are_raised():
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL: bug'):
    compile_program(Program(Refuses('INTERNAL: bug'), ()), open_target('here'))


def test_donated_arguments_count_once():
  x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
  kept, donated = (
    compile_program(Program(jax.jit(jnp.sin, donate_argnums=numbers).trace(x), (x,)), open_target('here'))
    for numbers in ((), (0,))
  )
  assert (kept.donated_bytes, donated.donated_bytes) == (0, 4 * 256**2)
  assert kept.peak_bytes - donated.peak_bytes == 4 * 256**2
