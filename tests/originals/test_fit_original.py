"""FIT at its vanilla settings against FITDenoiser of google-research/pix2seq, weights copied tensor by tensor.

The original ran in float64 on images of one frame, with its own cutting into groups of patches. What only Snap's FIT
has is switched off; README.md says what cannot be.
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
# A head of the condition read is as wide there as one of the global layers, here as one of the other cross attentions.
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
  """FIT's frequencies are 10000^(-2i/width); ours, as the U-Net's, reach 1/10000 with the last."""

  def sinusoidal(position, width):
    frequency = 10_000.0 ** (-2 * np.arange(width // 2) / width)
    angle = jnp.asarray(position, jnp.float32)[..., None] * frequency.astype(np.float32)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

  monkeypatch.setattr(embeddings, 'sinusoidal', sinusoidal)


def weights(fit, inputs, seed):
  params = draw(jax.eval_shape(fit.init, jax.random.key(0), *inputs)['params'], seed)
  if fit.cross_feed_forward:
    # The original has a feed-forward after each cross attention but the condition read: with zeros it does nothing.
    silent = params['blocks']['condition_read']['feed_forward']
    silent['contract'] = jax.tree.map(jnp.zeros_like, silent['contract'])
  return params


@functools.cache
def compiled(name):
  """`(params, inputs, output weight, latents weight) -> (gradients of the weighted sum or None, (output, latents))`."""
  fit = CASES[name]

  def total(params, inputs, output_weight, latents_weight):
    out, latents = fit.apply({'params': params}, *inputs)
    loss = jnp.sum(out[:, 0] * output_weight)
    # A network that hands nothing on has no latents to show.
    return loss + (jnp.sum(latents * latents_weight) if fit.self_conditioning else 0.0), (out[:, 0], latents)

  if name in dict(WITH_GRADIENTS):
    return jax.jit(jax.grad(total, has_aux=True))
  return jax.jit(lambda *given: (None, total(*given)[1]))


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', CASES)
def test_outputs_latents_and_gradients_are_those_of_pix2seq(name, seed, agrees):
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
    if tensor.endswith('key/bias'):  # softmax does not see it: all of its gradient is rounding
      largest = np.abs(tensors[tensor.replace('key', 'value')]).max()
      np.testing.assert_allclose(gradient, 0, atol=1e-5 * largest)
    elif 'condition_read/feed_forward' not in tensor:
      part, flat = flat[: gradient.size], flat[gradient.size :]
      agrees(gradient, part.reshape(gradient.shape), 1e-5, what, REFERENCE, 'gradient of each parameter')
  assert not flat.size
