"""UMT5's encoder against PyTorch's numbers, also from files of PyTorch; its folder and parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.text_encoders import UMT5, forward, listed_parameters, parameters

from vdm_jax import text
from vdm_jax.text import fingerprint
from vdm_jax.text.encoders import ENCODERS, encoder_folder
from vdm_jax.text.encoders.t5 import UMT5Config
from vdm_jax.text.frozen import load_params

FIXTURES = Path(__file__).parents[1] / 'fixtures'


@pytest.fixture(scope='module')
def golden() -> dict[str, np.ndarray]:
  with np.load(FIXTURES / 'umt5.npz') as archive:
    return dict(archive)


@pytest.fixture
def torch_folder(write_umt5) -> Path:
  """The folder with the weights of PyTorch's files, in half precision."""
  folder = Path(write_umt5())
  (folder / 'model.safetensors').unlink()
  for file in (FIXTURES / 'umt5').iterdir():
    shutil.copy(file, folder)
  return folder


def test_parity_with_pytorch(write_umt5, golden):
  mask = golden['mask']
  hidden = forward(write_umt5(), UMT5, golden['tokens'], mask)
  np.testing.assert_allclose(hidden[mask], golden['hidden'][mask], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~mask], 0)


def test_files_of_pytorch_are_those_of_safetensors_in_half_precision(write_umt5, torch_folder, golden):
  assert encoder_folder.problems(str(torch_folder), UMT5) == []
  found = fingerprint.fingerprint(str(torch_folder), UMT5)
  weights = {name[8:]: value.astype(np.float16) for name, value in golden.items() if name.startswith('weights/')}
  half = load_params(str(torch_folder), UMT5, np.float32)
  for file in torch_folder.glob('pytorch_model*'):
    file.unlink()
  path = write_umt5(weights)
  jax.tree.map(np.testing.assert_array_equal, half, load_params(path, UMT5, np.float32))
  assert jax.tree.leaves(half)[0].dtype == np.float16
  assert fingerprint.fingerprint(path, UMT5) == found


def test_a_damaged_file_of_pytorch_is_named(torch_folder):
  file = torch_folder / 'pytorch_model-00002-of-00002.bin'
  file.write_bytes(file.read_bytes()[:-100])
  (problem,) = encoder_folder.problems(str(torch_folder), UMT5)
  assert problem.startswith(str(file)) and 'download it again' in problem


def test_every_layer_has_its_own_biases(write_umt5, golden):
  weights = {name[8:]: value for name, value in golden.items() if name.startswith('weights/')}
  name = 'encoder.block.2.layer.0.SelfAttention.relative_attention_bias.weight'
  before = forward(write_umt5(), UMT5, golden['tokens'], golden['mask'])
  after = forward(write_umt5(weights | {name: weights[name][::-1].copy()}), UMT5, golden['tokens'], golden['mask'])
  assert np.abs(after - before).max() > 0.1
  del weights[name]
  (problem,) = encoder_folder.problems(path := write_umt5(weights), UMT5)
  assert problem.startswith(f'{path}/model.safetensors: tensor {name} is missing')


def test_t5_and_umt5_folders_are_not_confused(write_umt5, write_t5):
  path = write_umt5()
  assert encoder_folder.problems(path, ENCODERS['t5']) == [
    f"{path}/config.json: model_type='umt5' is not supported, only 't5'; use a T5, such as t5-small"
  ]
  path = write_t5('gated-gelu')
  (problem,) = encoder_folder.problems(path, UMT5)
  assert problem.endswith("model_type='t5' is not supported, only 'umt5'; use a UMT5, such as umt5-small")


def test_umt5_xxl_has_the_published_number_of_parameters():
  """UMT5-XXL's encoder has 5.68 billion parameters; module and tensors agree shape by shape."""
  config = UMT5Config(
    vocab_size=256384,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    relative_attention_num_buckets=32,
    layer_norm_epsilon=1e-6,
  )
  shapes = parameters(UMT5, config)
  assert shapes == listed_parameters(UMT5, config)
  layer = 4 * 4096 * 4096 + 3 * 4096 * 10240 + 2 * 4096 + 32 * 64
  assert sum(np.prod(shape) for shape in shapes.values()) == 256384 * 4096 + 24 * layer + 4096 == 5_680_910_336


def test_the_width_is_that_of_the_folder(write_umt5, tmp_path):
  path = write_umt5()
  assert text.width('umt5', path) == 16
  encode = text.build('umt5', path=path, length=6)
  embeddings, mask = encode(['a nine', ''])
  assert embeddings.shape == (2, 6, 16) and encode.width == 16
  np.testing.assert_array_equal(mask.sum(1), [3, 1])
  with pytest.raises(FileNotFoundError, match=r'^data\.text=umt5 needs .* of a UMT5, such as umt5-small, but '):
    text.width('umt5', str(tmp_path / 'empty'))


def test_a_contradicting_activation_is_rejected(write_umt5):
  path = write_umt5(dense_act_fn='relu')
  assert encoder_folder.problems(path, UMT5) == [
    f"{path}/config.json: dense_act_fn='relu' contradicts feed_forward_proj='gated-gelu'; download it again"
  ]
  path = write_umt5(dense_act_fn='gelu_new')
  config = json.loads((Path(path) / 'config.json').read_text())
  assert config['dense_act_fn'] == 'gelu_new' and encoder_folder.problems(path, UMT5) == []
