"""Weights in one file, in several, and in files that are not whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdm_jax.text.encoders import encoder_folder, t5_folder
from vdm_jax.text.frozen import load_params

TINY = t5_folder.PUBLISHED['t5-11b']._replace(sizes={'d_model': 16})


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


def test_several_files_read_like_one(shard, write_t5):
  path, _ = shard
  assert encoder_folder.problems(path, TINY) == []
  several = load_params(path, TINY, np.float32)
  jax.tree.map(np.testing.assert_array_equal, several, load_params(write_t5(), TINY, np.float32))


def test_layers_are_stacked_and_linear_maps_transposed(write_t5):
  path = write_t5()
  there, ours = load_file(Path(path) / 'model.safetensors'), load_params(path, TINY, np.float32)['params']
  name = 'encoder.block.2.layer.1.DenseReluDense.wi.weight'
  np.testing.assert_array_equal(ours['layers']['up']['kernel'][2], there[name].T)
  np.testing.assert_array_equal(ours['word']['embedding'], there['shared.weight'])


def test_layers_of_different_types_are_kept_in_float32(write_t5):
  path = write_t5()
  file = Path(path) / 'model.safetensors'
  weights = load_file(file)
  name = 'encoder.block.{}.layer.1.DenseReluDense.wo.weight'
  weights |= {name.format(i): weights[name.format(i)].astype(np.float16) for i in (0, 1)}
  save_file(weights, file)
  down = load_params(path, TINY, np.float32)['params']['layers']['down']['kernel']
  assert down.dtype == np.float32
  np.testing.assert_array_equal(down, [weights[name.format(i)].T.astype(np.float32) for i in range(3)])


def test_a_file_that_the_index_names_must_be_there(shard):
  path, index = shard
  (Path(path) / 'model-00002-of-00002.safetensors').unlink()
  message = (
    f'{index} names model-00002-of-00002.safetensors, which is not beside it; download it from where the index is from'
  )
  assert encoder_folder.problems(path, TINY) == [message]


@pytest.mark.parametrize('name', ['../model.safetensors', '/etc/passwd'])
def test_files_elsewhere_are_not_opened(shard, name):
  path, index = shard
  index.write_text(json.dumps({'weight_map': {'shared.weight': name}}))
  message = f'{index} names {name!r}, which is not a file beside it; download it again'
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    encoder_folder.require(path, TINY)


@pytest.mark.parametrize('content', ['{}', '{"weight_map": []}', '{"weight_map": {"shared.weight": 1}}'])
def test_an_index_without_a_table_is_refused(shard, content):
  path, index = shard
  index.write_text(content)
  message = f'{index} has no weight_map from tensors to files; download it again'
  assert encoder_folder.problems(path, TINY) == [message]


@pytest.mark.parametrize('cut', [4, 300, 5000])
def test_half_a_download_is_refused(write_t5, cut):
  path = write_t5()
  file = Path(path) / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:cut])
  (problem,) = encoder_folder.problems(path, TINY)
  assert problem.startswith(f'{file} is not a whole safetensors file (')
  assert problem.endswith('); download it again')
