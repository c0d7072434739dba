"""The second stage's input: means of squares, bilinear between their centres, and noise of a known level."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import diffusion


def ramp(height, width):
  """A plane over the pixels' centres, `[1 1 h w 1]`: what is linear survives both resamplings."""
  y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing='ij')
  return (2 * y / height - 3 * x / width)[None, None, ..., None].astype(np.float32)


@pytest.mark.parametrize('factor', [1, 2, 8])
def test_a_plane_is_kept(factor):
  fine, coarse = ramp(4 * factor, 6 * factor), ramp(4, 6)
  np.testing.assert_allclose(diffusion.downsample(fine, factor), coarse, atol=1e-6)
  inside = slice(factor, -factor)  # the edge's value is repeated outside
  up = diffusion.upsample(coarse, factor)
  assert up.shape == fine.shape
  np.testing.assert_allclose(up[:, :, inside, inside], fine[:, :, inside, inside], atol=1e-5)


def test_downsampling_is_the_mean_of_squares():
  x = np.random.default_rng(0).standard_normal((2, 3, 4, 6, 2)).astype(np.float32)
  expected = [[x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for j in range(3)] for i in range(2)]
  np.testing.assert_allclose(diffusion.downsample(x, 2), np.moveaxis(np.array(expected), (0, 1), (2, 3)), atol=1e-6)


def test_downsampling_by_two_is_bilinear_resizing():
  x = np.random.default_rng(1).standard_normal((2, 3, 8, 12, 3)).astype(np.float32)
  resized = jax.image.resize(x, (2, 3, 4, 6, 3), 'bilinear', antialias=False)
  np.testing.assert_allclose(diffusion.downsample(x, 2), resized, atol=1e-6)


def test_bicubic_downsampling_is_that_of_clips():
  """A second stage then trains on what its first stage was trained to make."""
  from PIL import Image

  picture = np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)
  expected = np.asarray(Image.fromarray(picture).resize((8, 6), Image.Resampling.BICUBIC), np.float32)
  found = diffusion.downsample(picture[..., None].astype(np.float32) / 127.5 - 1, 4, 'bicubic')
  np.testing.assert_allclose((np.asarray(found)[..., 0] + 1) * 127.5, expected, atol=0.75)
  area = (np.asarray(diffusion.downsample(picture[..., None] / 127.5 - 1, 4))[..., 0] + 1) * 127.5
  assert np.abs(area - expected).max() > 5, 'the two differ'
  with pytest.raises(ValueError, match="model.downsampling='lanczos'"):
    diffusion.downsample(picture[..., None], 4, 'lanczos')


def test_upsampling_by_two_weighs_neighbours_three_to_one():
  up = diffusion.upsample(np.array([0.0, 4.0, 8.0], np.float32).reshape(1, 1, 1, 3, 1), 2)
  np.testing.assert_allclose(np.ravel(up[0, 0, 0]), [0, 1, 3, 5, 7, 8], atol=1e-6)


def test_sides_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match='^4x6 .*factor=4'):
    diffusion.downsample(np.zeros((1, 1, 4, 6, 1)), 4)


def test_augmentation_preserves_variance_at_each_examples_own_level():
  """alpha_s low + sigma_s eps with alpha^2 = sigmoid(logsnr): clean at high log-SNR, unit noise at low."""
  logsnr = jnp.array([20.0, 0.0, -20.0])
  low = jnp.full((3, 2, 16, 16, 1), 0.5)
  noisy = np.asarray(diffusion.augment(low, 4, logsnr, jax.random.key(0)))
  assert noisy.shape == (3, 2, 64, 64, 1)
  alpha, sigma = np.sqrt(jax.nn.sigmoid(logsnr)), np.sqrt(jax.nn.sigmoid(-logsnr))
  np.testing.assert_allclose(noisy.mean((1, 2, 3, 4)), 0.5 * alpha, atol=0.03)
  np.testing.assert_allclose(noisy.std((1, 2, 3, 4)), sigma, atol=0.02)
  np.testing.assert_allclose(noisy[0], 0.5, atol=1e-3)


def test_a_key_per_example_makes_it_independent_of_its_batch():
  keys = jax.random.split(jax.random.key(1), 3)
  low = jnp.linspace(-1, 1, 3 * 2 * 4 * 4).reshape(3, 2, 4, 4, 1)
  whole = diffusion.augment(low, 2, jnp.zeros(3), keys)
  np.testing.assert_allclose(whole[1:2], diffusion.augment(low[1:2], 2, jnp.zeros(1), keys[1:2]), atol=1e-6)
  assert np.abs(whole[1] - whole[2]).max() > 0.1
