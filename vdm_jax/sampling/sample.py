"""The sampling loop: a single `lax.fori_loop` over a log-SNR grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.rng import fold_in
from vdm_jax.types import Array, Carry, Denoiser, Memory, Step


class State(NamedTuple):
  """State of the reverse process between two steps.

  Attributes:
    z: the noisy video `[b ...]`, float32.
    carry: recurrent state of the network, a pytree.
    memory: state of the step, a pytree.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> process = diffusion.variance_preserving()
  >>> denoiser = lambda z, logsnr, cond, carry: (jnp.zeros_like(z), carry)
  >>> state = sampling.begin(denoiser, sampling.ddim(process), diffusion.cosine_grid(4), jnp.ones((2, 3)), None)
  >>> state.z.shape, state.carry, state.memory
  ((2, 3), None, None)
  """

  z: Array
  carry: Carry
  memory: Memory


def sample(denoiser: Denoiser, step: Step, logsnrs: Array, z: Array, rng: Array, cond: Any) -> Array:
  """Return samples x from noise z: N - 1 steps along a grid of N points, then one evaluation of the denoiser.

  Pure, and not jitted here. Jit a function of (params, z, rng, cond) that builds the denoiser inside; then new weights
  or observations do not cause recompilation.

  Args:
    denoiser: the denoiser with all of its guidance.
    step: a step, such as `ancestral`, `ddim`, `heun` or `dpm_solver`.
    logsnrs: an increasing grid `[N]`, such as `cosine_levels` or `karras_grid`.
    z: `sigma(logsnrs[0])` times unit noise, `[b ...]`.
    rng: one key, or a key per example `[b]`, in which case no sample depends on the rest of its batch.
    cond: passed to the denoiser.

  Returns:
    x `[b ...]`, float32: the denoiser's estimate at the last level, which is the limit sigma -> 0 of a further
    ancestral (gamma < 1), DDIM or Euler step.

  Raises:
    ValueError: the values of `logsnrs` are known and do not increase.

  >>> import jax
  >>> from vdm_jax import diffusion, sampling
  >>> process = diffusion.variance_preserving()
  >>> def denoiser(z, logsnr, cond, carry):  # E[x | z] of unit normal data
  ...   return z * process.alpha(logsnr)[:, None], carry
  >>> z = jax.random.normal(jax.random.key(0), (4, 2))
  >>> x = sampling.sample(denoiser, sampling.ddim(process), diffusion.cosine_grid(16), z, jax.random.key(1), None)
  >>> x.shape, str(x.dtype)
  ((4, 2), 'float32')
  """
  if not isinstance(logsnrs, jax.core.Tracer) and not np.all(np.diff(logsnrs) > 0):
    raise ValueError('logsnrs must increase, from noise to data, as cosine_levels and karras_grid do.')
  logsnrs = jnp.asarray(logsnrs, jnp.float32)
  state = begin(denoiser, step, logsnrs, z, cond)
  state = advance(denoiser, step, logsnrs, state, rng, cond, 0, logsnrs.shape[0] - 1)
  return finish(denoiser, logsnrs, state, cond)


def begin(denoiser: Denoiser, step: Step, logsnrs: Array, z: Array, cond: Any) -> State:
  """Return the state before the first step: z, a carry of zeros shaped like the denoiser's, and the step's memory.

  Arguments as in `sample`. The denoiser is not evaluated, only its shapes are.

  >>> import jax, jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> process = diffusion.variance_preserving()
  >>> denoiser = lambda z, logsnr, cond, carry: (jnp.zeros_like(z), carry)
  >>> grid, step, key = diffusion.cosine_grid(4), sampling.ancestral(process), jax.random.key(0)
  >>> state = sampling.begin(denoiser, step, grid, jnp.ones((2, 3)), None)
  >>> state = sampling.advance(denoiser, step, grid, state, key, None, 0, 2)  # two of three steps
  >>> state = sampling.advance(denoiser, step, grid, state, key, None, 2, 3)
  >>> sampling.finish(denoiser, grid, state, None).shape
  (2, 3)
  """
  z = jnp.asarray(z, jnp.float32)
  carry = jax.eval_shape(denoiser, z, _per_example(logsnrs[0], z), cond, None)[1]
  carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)
  # A weak type would make `advance` compile twice.
  memory = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), step.init(z))
  return State(z, carry, memory)


def advance(
  denoiser: Denoiser, step: Step, logsnrs: Array, state: State, rng: Array, cond: Any, start: int, stop: int
) -> State:
  """Return the state after the steps start, ..., stop - 1 of `sample`.

  For callers that act between parts of a sample, for instance to report progress. `start` and `stop` may be traced, so
  that one compiled program serves all parts. The result does not depend on where a sample is cut.

  >>> import jax, jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> denoiser = lambda z, logsnr, cond, carry: (jnp.zeros_like(z), carry)
  >>> grid, step = diffusion.cosine_grid(4), sampling.ddim(diffusion.variance_preserving())
  >>> state = sampling.begin(denoiser, step, grid, jnp.ones((2, 3)), None)
  >>> part = jax.jit(lambda state, i, j: sampling.advance(denoiser, step, grid, state, jax.random.key(0), None, i, j))
  >>> part(part(state, 0, 2), 2, 3).z.shape
  (2, 3)
  """
  logsnrs = jnp.asarray(logsnrs, jnp.float32)

  def body(i: Array, state: State) -> State:
    t, s = _per_example(logsnrs[i], state.z), _per_example(logsnrs[i + 1], state.z)
    return State(*step.update(denoiser, state.z, t, s, fold_in(rng, i), cond, state.carry, state.memory))

  return jax.lax.fori_loop(start, stop, body, state)


def finish(denoiser: Denoiser, logsnrs: Array, state: State, cond: Any) -> Array:
  """Return x `[b ...]`, the denoiser's estimate at the last level of the grid.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> denoiser = lambda z, logsnr, cond, carry: (0.5 * z, carry)
  >>> sampling.finish(denoiser, diffusion.cosine_grid(4), sampling.State(jnp.ones((1, 2)), None, None), None)
  Array([[0.5, 0.5]], dtype=float32)
  """
  return denoiser(state.z, _per_example(logsnrs[-1], state.z), cond, state.carry)[0]


def _per_example(logsnr: Array, z: Array) -> Array:
  """Repeat one level for every example: `[] -> [b]`."""
  return jnp.broadcast_to(logsnr, z.shape[:1])
