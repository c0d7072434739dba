"""Weights in one file, in several, and in invalid files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.text_encoders import TINY_T5
from safetensors.numpy import load_file, save_file

from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.contract import Tensor
from vdm_jax.text.encoders.weight_files import read_arrays
from vdm_jax.text.frozen import load_params


@pytest.fixture
def shard(write_t5):
  """Returns the folder of a T5 whose weights are in two files, and the path of their index."""
  folder = Path(write_t5())
  weights = load_file(folder / 'model.safetensors')
  (folder / 'model.safetensors').unlink()
  table = {name: f'model-{1 + i % 2:05}-of-00002.safetensors' for i, name in enumerate(sorted(weights))}
  for file in set(table.values()):
    save_file({name: weights[name] for name in weights if table[name] == file}, folder / file)
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': table}))
  return str(folder), index


def test_several_files_equal_one(shard, write_t5):
  path, _ = shard
  assert encoder_folder.problems(path, TINY_T5) == []
  several = load_params(path, TINY_T5, np.float32)
  jax.tree.map(np.testing.assert_array_equal, several, load_params(write_t5(), TINY_T5, np.float32))


def test_layers_are_stacked_and_linear_maps_transposed(write_t5):
  path = write_t5()
  stored, ours = load_file(Path(path) / 'model.safetensors'), load_params(path, TINY_T5, np.float32)['params']
  name = 'encoder.block.2.layer.1.DenseReluDense.wi.weight'
  np.testing.assert_array_equal(ours['layers']['up']['kernel'][2], stored[name].T)
  np.testing.assert_array_equal(ours['word']['embedding'], stored['shared.weight'])


def test_linear_maps_outside_layers_are_transposed_and_other_kernels_are_not(tmp_path):
  stored = {'head': np.arange(6, dtype=np.float32).reshape(2, 3), 'patch': np.ones((2, 3, 4, 5), np.float32)}
  save_file(stored, tmp_path / 'model.safetensors')
  head = Tensor('head/kernel', ['head'], (2, 3), ('heads', 'embed'))
  patch = Tensor('patch/kernel', ['patch'], (2, 3, 4, 5), (None,) * 4)
  read = dict(read_arrays(str(tmp_path), [head, patch], str, np.float32))
  np.testing.assert_array_equal(read['head/kernel'], stored['head'].T)
  assert read['patch/kernel'].shape == (2, 3, 4, 5)
  assert head.parameter_axes == ('embed', 'heads') and patch.parameter_axes == (None,) * 4


def test_layers_of_mixed_types_are_kept_in_float32(write_t5):
  path = write_t5()
  file = Path(path) / 'model.safetensors'
  weights = load_file(file)
  name = 'encoder.block.{}.layer.1.DenseReluDense.wo.weight'
  weights |= {name.format(i): weights[name.format(i)].astype(np.float16) for i in (0, 1)}
  save_file(weights, file)
  down = load_params(path, TINY_T5, np.float32)['params']['layers']['down']['kernel']
  assert down.dtype == np.float32
  np.testing.assert_array_equal(down, [weights[name.format(i)].T.astype(np.float32) for i in range(3)])


def test_files_in_the_index_must_exist(shard):
  path, index = shard
  (Path(path) / 'model-00002-of-00002.safetensors').unlink()
  (problem,) = encoder_folder.problems(path, TINY_T5)
  assert problem.startswith(f'{index} names model-00002-of-00002.safetensors, which is missing')


@pytest.mark.parametrize('name', ['../model.safetensors', '/etc/passwd'])
def test_files_outside_the_folder_are_not_opened(shard, name):
  path, index = shard
  index.write_text(json.dumps({'weight_map': {'shared.weight': name}}))
  with pytest.raises(ValueError, match=f'^{re.escape(str(index))} names {re.escape(repr(name))}, which is outside'):
    encoder_folder.require(path, TINY_T5)


@pytest.mark.parametrize('content', ['{}', '{"weight_map": []}', '{"weight_map": {"shared.weight": 1}}'])
def test_an_index_without_a_weight_map_is_rejected(shard, content):
  path, index = shard
  index.write_text(content)
  (problem,) = encoder_folder.problems(path, TINY_T5)
  assert problem.startswith(f'{index} has no valid weight_map')


@pytest.mark.parametrize('cut', [4, 300, 5000])
def test_incomplete_downloads_are_rejected(write_t5, cut):
  path = write_t5()
  file = Path(path) / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:cut])
  (problem,) = encoder_folder.problems(path, TINY_T5)
  assert problem.startswith(f'{file} is not a complete safetensors file (')
  assert problem.endswith('); download it again')
