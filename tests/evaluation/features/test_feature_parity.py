"""Every block of the feature networks against PyTorch's numbers, from bytes to logits, through torch's files."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from vdm_jax.evaluation.features import clip_image, convolutional
from vdm_jax.evaluation.features.resizing import bilinear


def sampled(x: np.ndarray, count: int) -> np.ndarray:
  flat = np.asarray(x).reshape(-1)
  return flat[np.linspace(0, len(flat) - 1, count).astype(int)]


def prepared(name: str, clips: np.ndarray) -> jax.Array:
  published = convolutional.PUBLISHED[name]
  return published.scale(bilinear(clips, published.size, published.rule))


@pytest.fixture(scope='module')
def run(weight_files, narrow):
  """Returns `run(name, x)`: the outputs of every block of a network; each network is compiled once."""
  compiled = {}

  def blocks(name: str, x: jax.Array) -> dict[str, np.ndarray]:
    if name not in compiled:
      module = narrow[name]()
      params, _ = convolutional.load_params(name, module, weight_files[name])
      compiled[name] = jax.jit(lambda x: module.apply({'params': params}, x))
    return compiled[name](x)

  return blocks


@pytest.mark.parametrize('name', ['i3d', 'c3d', 'inception'])
def test_every_block_is_pytorchs(run, golden, name):
  clips = {'i3d': golden['clips'][:, :9], 'c3d': golden['clips'], 'inception': golden['clips'][0, :2]}[name]
  made = run(name, prepared(name, clips))
  expected = {key.removeprefix(f'{name}/'): value for key, value in golden.items() if key.startswith(f'{name}/')}
  assert set(made) - {'pool5'} == set(expected)
  for block, values in expected.items():
    scale = max(np.abs(values).max(), np.abs(made[block]).max())
    np.testing.assert_allclose(
      sampled(made[block], len(values)), values, atol=1e-5 * scale, rtol=1e-5, err_msg=f'{name} {block}'
    )


def test_the_i3d_of_stylegan_v_differs_by_where_a_pixel_lies(run, golden):
  clips = golden['clips'][:, :9]
  there, here = golden['i3d-stylegan-v/logits'], golden['i3d/logits']
  np.testing.assert_allclose(run('i3d', prepared('i3d-stylegan-v', clips))['logits'][0], there, rtol=1e-5, atol=1e-5)
  assert np.abs(there - here).max() > 1e-3


def test_the_image_encoder_of_clip_is_pytorchs(golden, tmp_path):
  config = clip_image.VisionConfig(8, 12, 2, 2, 6, 12, image_size=24)
  source = Path(__file__).parent / 'fixtures' / 'clip_vision.safetensors'
  (tmp_path / 'model.safetensors').write_bytes(source.read_bytes())
  network = clip_image.network('tiny', config)
  params = clip_image.load_params('tiny', config, str(tmp_path))
  pool, logits = network.forward(params, network.on_host(golden['clips'][0, :2]))
  assert logits is None
  np.testing.assert_allclose(pool, golden['clip/projected'], atol=1e-5, rtol=0)
