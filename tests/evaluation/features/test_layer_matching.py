"""Which tensor of a file belongs to which layer, whatever wrote it, and that a batch norm folds away exactly."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from vdm_jax.evaluation.features import convolutional, layer_matching
from vdm_jax.tensor_files.stored_tensors import Stored, open_npz
from vdm_jax.tensor_files.torch_file import open_torch


def stored(array: np.ndarray) -> Stored:
  return Stored(array.shape, array.dtype, lambda: array)


# Tracing a network for its shapes takes a second, and every test needs them.
shapes_of = functools.cache(convolutional.shapes)


def read(name: str, module, tensors) -> tuple[dict, str]:
  shapes = shapes_of(name, module)
  matched, how = layer_matching.match(shapes, layer_matching.units(tensors))
  epsilon = {'i3d': 1e-3, 'inception': 1e-3}.get(name, 0.0)
  return layer_matching.read(shapes, matched, epsilon, convolutional._flattened(name, shapes)), how


def equal(ours: dict, theirs: dict) -> None:
  assert list(ours) == list(theirs)
  for path in ours:
    np.testing.assert_array_equal(ours[path], theirs[path], err_msg='/'.join(path))


def test_a_batch_norm_folds_into_the_kernel_and_the_bias_before_it():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(3, 2, 1)).astype(np.float32)
  scale, bias, mean = rng.normal(size=(3, 3)).astype(np.float32)
  variance = np.array([0, 1e-4, 2], np.float32)
  vectors = {'scale': scale, 'bias': bias, 'mean': mean, 'variance': variance}
  folded, offset = layer_matching.fold('w', kernel, vectors, 1e-3)
  x = rng.normal(size=2)
  expected = (kernel[..., 0] @ x - mean) / np.sqrt(variance + 1e-3) * scale + bias
  np.testing.assert_allclose(folded[..., 0] @ x + offset, expected, rtol=1e-6)
  without = layer_matching.fold('w', kernel, {'mean': mean, 'variance': variance, 'bias': bias}, 1e-3)
  ones = layer_matching.fold('w', kernel, vectors | {'scale': np.ones(3, np.float32)}, 1e-3)
  for a, b in zip(without, ones, strict=True):
    np.testing.assert_array_equal(a, b)


def test_i3d_is_read_alike_under_the_names_of_three_ports(weight_files, narrow):
  """As PyTorch ports name it, as TensorFlow's names become, and without names, where order and shapes must do."""
  tensors, module = open_torch(weight_files['i3d']), narrow['i3d']()
  expected, how = read('i3d', module, tensors)
  assert how == 'by names'
  roles = {'running_mean': 'moving_mean', 'running_var': 'moving_variance', 'bn.bias': 'bn.beta'}
  renamed = {}
  for name, tensor in tensors.items():
    for old, new in roles.items():
      name = name.replace(old, new)
    renamed[f'detector.{name.lower()}'] = tensor
  made, how = read('i3d', module, renamed)
  assert how == 'by names'
  equal(made, expected)
  numbered, number = {}, {}
  for name, tensor in tensors.items():
    unit, _, role = name.rpartition('.')
    unit = re.sub(r'\.(conv3d|bn)$', '', unit)
    numbered[f'layers.{number.setdefault(unit, len(number))}.{role}'] = tensor
  made, how = read('i3d', module, numbered)
  assert how == 'by order and shapes'
  equal(made, expected)


def test_inception_is_read_alike_from_the_order_of_its_graph(weight_files, narrow):
  """TensorFlow's graph has the forks of the last blocks before their 1x1 convolution, and no names of blocks."""
  tensors, module = open_torch(weight_files['inception']), narrow['inception']()
  expected, how = read('inception', module, tensors)
  assert how == 'by names'
  late = ('branch1x1', 'branch3x3_2', 'branch3x3dbl_3', 'branch_pool')

  def rank(name: str) -> tuple[str, int]:
    block = name.split('.')[0]
    forks = block in ('Mixed_7b', 'Mixed_7c')
    return block, next((i + 1 for i, part in enumerate(late) if forks and part in name), 0)

  blocks = list(dict.fromkeys(name.split('.')[0] for name in tensors))
  numbered, number = {}, {}
  roles = {'bn.weight': 'gamma', 'bn.bias': 'beta', 'bn.running_mean': 'mean', 'bn.running_var': 'var'}
  for name in sorted(tensors, key=lambda name: (blocks.index(rank(name)[0]), rank(name)[1])):
    unit, *role = re.split(r'\.(?=conv|bn|weight|bias)', name, maxsplit=1)
    role = roles.get(role[0], role[0].removeprefix('conv.'))
    numbered[f'layers.{number.setdefault(unit, len(number))}.{role}'] = tensors[name]
  assert list(number)[-2:] == ['Mixed_7c.branch_pool', 'fc'] and list(number).index('Mixed_7c.branch1x1') == 88
  made, how = read('inception', module, numbered)
  assert how == 'by order and shapes'
  equal(made, expected)


def test_c3d_is_read_alike_from_torch_and_from_chainer(weight_files, narrow, tmp_path):
  tensors, module = open_torch(weight_files['c3d']), narrow['c3d']()
  expected, _ = read('c3d', module, tensors)
  arrays = {name.replace('.weight', '/W').replace('.bias', '/b'): t.read() for name, t in tensors.items()}
  np.savez(tmp_path / 'conv3d_deepnetA_ucf.npz', **arrays)
  made, how = read('c3d', module, open_npz(tmp_path / 'conv3d_deepnetA_ucf.npz'))
  assert how == 'by names'
  equal(made, expected)


def test_the_inputs_of_fc6_change_from_channels_first_to_last(weight_files, narrow):
  """Channel c of pixel (y, x) is multiplied by the same weights as in the file."""
  tensors, module = open_torch(weight_files['c3d']), narrow['c3d']()
  params, _ = read('c3d', module, tensors)
  kernel, channels = tensors['fc6.weight'].read(), tensors['conv5b.bias'].shape[0]
  for c, y, x in ((0, 0, 1), (3, 2, 0), (channels - 1, 3, 3)):
    np.testing.assert_array_equal(params['fc6', 'kernel'][(4 * y + x) * channels + c], kernel[:, 16 * c + 4 * y + x])


def test_another_order_with_matching_shapes_is_refused(weight_files, narrow):
  tensors = open_torch(weight_files['inception'])
  swapped = {name.replace('branch1x1', 'branch'): tensor for name, tensor in tensors.items()}  # no longer by names
  names = [name for name in swapped if name.startswith('Mixed_6c')]
  moved = {name: swapped[name] for name in swapped if name not in names} | {name: swapped[name] for name in names}
  with pytest.raises(ValueError, match='is where layer Mixed_6c.* is expected'):
    read('inception', narrow['inception'](), moved)


KERNEL, VECTOR = stored(np.ones((4, 3), np.float32)), stored(np.ones(4, np.float32))
SHAPES = {('fc', 'kernel'): (3, 4), ('fc', 'bias'): (4,)}


@pytest.mark.parametrize(
  ('tensors', 'message'),
  [
    ({}, r'there is no tensor of shape \(4, 3\) for its layer fc'),
    ({'fc.weight': stored(np.ones((3, 4)))}, r'tensor fc.weight has shape \(3, 4\), but its layer fc has \(4, 3\)'),
    ({'fc.weight': KERNEL}, 'tensor fc.weight has neither a bias nor a batch norm after it'),
    ({'fc.weight': KERNEL, 'fc.offset': VECTOR}, 'tensor fc.offset after fc.weight is neither its bias nor part of'),
    ({'fc.weight': KERNEL, 'fc.bias': VECTOR, 'bn.bias': VECTOR}, 'tensor bn.bias after fc.weight is neither'),
    (
      {'bn.running_mean': VECTOR, 'fc.weight': KERNEL},
      r'tensor bn.running_mean has shape \(4,\), which does not match',
    ),
    ({'fc.weight': KERNEL, 'bn.bias': VECTOR, 'bn.running_mean': VECTOR}, 'its batch norm lacks a mean or a variance'),
    (
      {'fc.weight': KERNEL, 'bn.running_mean': VECTOR, 'bn.running_var': stored(-np.ones(4, np.float32))},
      'has a negative variance',
    ),
    (
      {'fc.weight': stored(np.ones((4, 3), int)), 'fc.bias': VECTOR},
      'tensor fc.weight has type int64',
    ),
    ({'fc.weight': stored(np.full((4, 3), np.nan)), 'fc.bias': VECTOR}, 'tensor fc.weight or its vectors contain NaN'),
  ],
)
def test_tensors_that_do_not_match_are_named(tensors, message):
  with pytest.raises(ValueError, match=f'{message}'):
    matched, _ = layer_matching.match(SHAPES, layer_matching.units(tensors))
    layer_matching.read(SHAPES, matched)
