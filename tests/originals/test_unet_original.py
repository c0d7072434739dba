"""The U-Net on one frame against the U-Net of diffusion_distillation, with the same weights; Shaw's attention in loops.

The original ran in float64. It has no temporal attention, so ours has zeros in its output projections.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fidelity import draw, load

from vdm_jax.networks import UNet3D
from vdm_jax.networks.attention import TemporalAttention
from vdm_jax.types import Conditioning

SETTINGS = {
  'num_frames': 1,
  'base_channels': 32,
  'channel_multipliers': (1, 2),
  'num_blocks': 1,
  'attention_resolutions': (4,),
  'head_width': 16,
  'embedding_width': 24,
  'embedding_layers': 2,
}
REFERENCE = 'google-research, diffusion_distillation/unet.py'


@pytest.mark.parametrize('resample', ['residual', 'conv'])
def test_one_frame_equals_an_image_of_the_original(resample, agrees):
  given, network = load('unet.npz'), UNet3D(**SETTINGS, resample=resample)
  x, logsnr = given['x'][:, None], given['logsnr']
  params = draw(jax.eval_shape(network.init, jax.random.key(0), x, logsnr, Conditioning())['params'], 0, kernel=0.1)
  for name, layer in params.items():
    if name.endswith('_time'):
      layer['out'] = jax.tree.map(jnp.zeros_like, layer['out'])

  def total(x):
    out, _ = network.apply({'params': params}, x, logsnr, Conditioning())
    return jnp.sum(out[:, 0] * given['weight']), out[:, 0]

  gradient, out = jax.jit(jax.grad(total, has_aux=True))(x)
  what = f'U-Net, one frame, resampling by {resample}'
  agrees(out, given[f'{resample}/output'], 1e-5, what, REFERENCE, 'output')
  agrees(gradient[:, 0], given[f'{resample}/gradient'], 1e-5, what, REFERENCE, 'gradient of the input')


FRAMES, HEADS, WIDTH = 5, 2, 4


def shaw(q, k, v, key_table, value_table):
  """Relative attention of one head in plain loops (Shaw et al. 2018, Eqs. 3 and 4)."""
  frames = len(q)
  out = np.zeros_like(q)
  for i in range(frames):
    scores = np.zeros(frames)
    for j in range(frames):
      for c in range(WIDTH):
        scores[j] += q[i, c] * (k[j, c] + key_table[j - i + FRAMES - 1, c]) / WIDTH**0.5
    weights = np.exp(scores) / np.exp(scores).sum()
    for j in range(frames):
      for c in range(WIDTH):
        out[i, c] += weights[j] * (v[j, c] + value_table[j - i + FRAMES - 1, c])
  return out


@pytest.mark.parametrize('frames', [FRAMES, 3])
def test_temporal_attention_equals_shaws(frames, agrees):
  layer, channels = TemporalAttention(FRAMES, WIDTH, norm_groups=2), HEADS * WIDTH
  x = np.random.RandomState(0).standard_normal((1, frames, 2, 1, channels)).astype(np.float32)
  params = draw(jax.eval_shape(lambda: layer.init(jax.random.key(0), x, frames))['params'], 0)
  found = jax.jit(lambda params, x: layer.apply({'params': params}, x, frames))(params, x)

  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  split = np.float64(x[0]).reshape(frames, 2, 2, channels // 2)  # two pixels, two groups of channels
  centred = split - split.mean((1, 3), keepdims=True)
  normed = centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + 1e-6)
  normed = normed.reshape(frames, 2, channels) * p['norm']['scale'] + p['norm']['bias']
  expected = np.float64(x[0, :, :, 0])
  for pixel in range(2):
    qkv = np.tensordot(normed[:, pixel], p['qkv']['kernel'], 1) + p['qkv']['bias']
    for head in range(HEADS):
      out = shaw(*(qkv[:, i, head] for i in range(3)), p['relative_keys'], p['relative_values'])
      expected[:, pixel] += out @ p['out']['kernel'][head]
  expected += p['out']['bias']
  agrees(found[0, :, :, 0], expected, 1e-5, 'temporal attention', 'Shaw et al. 2018, triple loop in float64', 'output')
