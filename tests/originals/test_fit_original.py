"""FIT with the settings of the original against FITDenoiser of google-research/pix2seq, with the same weights.

The original ran in float64 on images of one frame, with its own split into groups of patches. What only Snap's FIT has
is switched off; README.md lists the differences that remain.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fidelity import below, draw, load, named_leaves

from vdm_jax.networks import FIT, embeddings
from vdm_jax.types import Conditioning

REFERENCE = 'google-research/pix2seq, FITDenoiser'
# In the original, heads of the condition read are as wide as those of global layers; here, of other cross attentions.
VANILLA = {
  'num_frames': 1,
  'height': 8,
  'width': 8,
  'patch_size': (1, 2, 2),
  'group_size': (1, 2, 2),
  'patch_width': 8,
  'latent_width': 16,
  'condition_width': 16,
  'num_latents': 8,
  'num_blocks': 2,
  'patch_head_width': 4,
  'latent_head_width': 4,
  'cross_feed_forward': False,
  'condition_read': 'after',
  'positions': 'group',
  'scalars': (),
  'takes_text': True,
}
CASES = {
  'plain': FIT(**VANILLA, num_global_layers=2, self_conditioning=False),
  'carried': FIT(**VANILLA, num_global_layers=2),
  'local': FIT(**VANILLA, num_global_layers=1, num_local_layers=1, self_conditioning=False),
  'local carried': FIT(**VANILLA, num_global_layers=1, num_local_layers=1),
  'cross feed-forward': FIT(**VANILLA | {'cross_feed_forward': True}, num_global_layers=1),
}
SEEDS = (0, 1, 2)
WITH_GRADIENTS = [('plain', 1), ('local', 0), ('local carried', 0), ('local carried', 1), ('cross feed-forward', 0)]


@functools.cache
def originals():
  return load('fit.npz')


@pytest.fixture(autouse=True)
def sinusoids_of_the_original(monkeypatch):
  """FIT's frequencies, 10000^(-2i/width); ours, like the U-Net's, end at 1/10000."""

  def sinusoidal(position, width):
    frequency = 10_000.0 ** (-2 * np.arange(width // 2) / width)
    angle = jnp.asarray(position, jnp.float32)[..., None] * frequency.astype(np.float32)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

  monkeypatch.setattr(embeddings, 'sinusoidal', sinusoidal)


def weights(fit, inputs, seed):
  params = draw(jax.eval_shape(fit.init, jax.random.key(0), *inputs)['params'], seed)
  if fit.cross_feed_forward:
    # The original has no feed-forward after the condition read: zeros make ours the identity.
    silent = params['blocks']['condition_read']['feed_forward']
    silent['contract'] = jax.tree.map(jnp.zeros_like, silent['contract'])
  return params


@functools.cache
def compiled(name):
  """Return a function of parameters, inputs and weights: gradients of the weighted sum or None, output and latents."""
  fit = CASES[name]

  def total(params, inputs, output_weight, latents_weight):
    out, latents = fit.apply({'params': params}, *inputs)
    loss = jnp.sum(out[:, 0] * output_weight)
    # Without self-conditioning the network returns no latents.
    return loss + (jnp.sum(latents * latents_weight) if fit.self_conditioning else 0.0), (out[:, 0], latents)

  if name in dict(WITH_GRADIENTS):
    return jax.jit(jax.grad(total, has_aux=True))
  return jax.jit(lambda *given: (None, total(*given)[1]))


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', CASES)
def test_outputs_latents_and_gradients_equal_pix2seq(name, seed, agrees):
  fit, given = CASES[name], below(originals(), f'inputs/{seed}/')
  cond = Conditioning(text=given['text'][:, None])
  inputs = given['x'][:, None], given['logsnr'], cond, given['previous'] if fit.self_conditioning else None
  params = weights(fit, inputs, seed)
  gradients, (out, latents) = compiled(name)(params, inputs, given['output_weight'], given['latents_weight'])

  expected, what = below(originals(), f'{name}/{seed}/'), f'FIT, {name}'
  agrees(out, expected['output'], 1e-5, what, REFERENCE, 'output')
  if latents is not None:
    agrees(latents, expected['latents'], 1e-5, what, REFERENCE, 'latents')
  if (name, seed) not in WITH_GRADIENTS:
    return
  flat, tensors = expected['gradients'], named_leaves(gradients)
  for tensor, gradient in tensors.items():
    if tensor.endswith('key/bias'):  # softmax does not depend on it: its gradient is rounding error
      largest = np.abs(tensors[tensor.replace('key', 'value')]).max()
      np.testing.assert_allclose(gradient, 0, atol=1e-5 * largest)
    elif 'condition_read/feed_forward' not in tensor:
      part, flat = flat[: gradient.size], flat[gradient.size :]
      agrees(gradient, part.reshape(gradient.shape), 1e-5, what, REFERENCE, 'gradient of each parameter')
  assert not flat.size
