"""A second stage starts from a first: tensors that fit are copied, declared differences handled, all others named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import draw, normal

from vdm_jax.networks import FIT
from vdm_jax.training import first_stage
from vdm_jax.types import Conditioning

TINY = {
  'num_frames': 2,
  'patch_size': (1, 2, 2),
  'patch_width': 8,
  'latent_width': 16,
  'condition_width': 16,
  'num_latents': 8,
  'num_blocks': 2,
  'num_global_layers': 1,
  'patch_head_width': 4,
  'latent_head_width': 4,
}
FIRST = FIT(height=4, width=4, group_size=(2, 1, 2), **TINY)
SECOND = FIT(
  height=8,
  width=8,
  group_size=(2, 2, 4),
  takes_low_resolution=True,
  scalars=('frame_interval', 'resolution', 'augmentation_logsnr'),
  **TINY,
)


def condition(network, batch):
  low = normal(batch, 2, network.height, network.width, 3, seed=9) if network.takes_low_resolution else None
  return Conditioning(low_resolution=low)


def parameters(network, seed):
  x = jnp.zeros((1, 2, network.height, network.width, 3))
  init = jax.eval_shape(lambda rng: network.init(rng, x, jnp.zeros(1), condition(network, 1)), jax.random.key(0))
  return draw(init, seed)['params']


def named(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


FIRST_PARAMS, FRESH = parameters(FIRST, 0), parameters(SECOND, 1)


def test_all_tensors_are_copied_except_positions_the_input_kernel_and_the_new_embedding():
  manners = first_stage.plan(SECOND, named(FRESH), named(FIRST_PARAMS))
  different = {name: manner for name, manner in manners.items() if manner != 'copied'}
  assert different == {
    'position_embedding': 'resampled',
    'patch/kernel': 'extended by zeros',
    **{f'condition/augmentation_logsnr/dense_{i}/{leaf}': 'fresh' for i in range(2) for leaf in ('kernel', 'bias')},
  }
  started = named(first_stage.transfer(FRESH, FIRST_PARAMS, manners))
  for name, manner in manners.items():
    source = named(FRESH if manner == 'fresh' else FIRST_PARAMS).get(name)
    if manner in ('copied', 'fresh'):
      np.testing.assert_array_equal(started[name], source, err_msg=name)
  rows = named(FIRST_PARAMS)['patch/kernel']
  np.testing.assert_array_equal(started['patch/kernel'], np.concatenate([rows, np.zeros_like(rows)]))


def test_positions_are_interpolated_along_each_axis():
  manners = first_stage.plan(SECOND, named(FRESH), named(FIRST_PARAMS))
  plane = np.arange(2 * 2, dtype=np.float32).reshape(1, 2, 2, 1) * np.ones((2, 1, 1, 8), np.float32)
  first = FIRST_PARAMS | {'position_embedding': jnp.asarray(plane)}
  found = np.asarray(first_stage.transfer(FRESH, first, manners)['position_embedding'])
  assert found.shape == (2, 4, 4, 8)
  line = np.array([0, 0.25, 0.75, 1])
  np.testing.assert_allclose(found[1, :, :, 5], 2 * line[:, None] + line, atol=1e-6)


def test_a_second_stage_starts_independent_of_its_low_resolution_input():
  """The new rows of the input kernel are zero, but their gradient is not."""
  manners = first_stage.plan(SECOND, named(FRESH), named(FIRST_PARAMS))
  params = first_stage.transfer(FRESH, FIRST_PARAMS, manners)
  x, logsnr = normal(2, 2, 8, 8, 3), jnp.array([-1.0, 2.0])

  def power(params, low):
    output = SECOND.apply({'params': params}, x, logsnr, Conditioning(low_resolution=low))[0]
    return jnp.sum(output**2), output

  run = jax.jit(jax.grad(power, has_aux=True))
  gradient, output = run(params, low := normal(2, 2, 8, 8, 3, seed=3))
  np.testing.assert_array_equal(output, run(params, jnp.zeros_like(low))[1])
  assert np.abs(gradient['patch']['kernel'][12:]).max() > 1e-3


def test_every_tensor_that_does_not_fit_is_named_unless_accepted():
  found = named(FIRST_PARAMS)
  found['latents'] = jnp.zeros((4, 16))
  del found['head/bias']
  found['extra/kernel'] = jnp.zeros((2, 2))
  with pytest.raises(ValueError, match='(?s)^runs/first .* 3 tensors.*training.accept_mismatch=True') as error:
    first_stage.plan(SECOND, named(FRESH), found, origin='runs/first')
  assert str(error.value).splitlines()[1:-1] == [
    '  extra/kernel: [2, 2] there, absent here',
    '  head/bias: absent there, [12] here',
    '  latents: [4, 16] there, [8, 16] here',
  ]
  manners = first_stage.plan(SECOND, named(FRESH), found, accept_mismatch=True)
  assert manners['latents'] == manners['head/bias'] == 'fresh' and manners['head/kernel'] == 'copied'


def test_a_new_position_table_is_fresh_and_positions_of_words_must_fit():
  found = named(FIRST_PARAMS)
  wanted = named(FRESH) | {'row_position_embedding': jnp.zeros((4, 8))}
  assert first_stage.plan(SECOND, wanted, found)['row_position_embedding'] == 'fresh'
  words = 'condition/text/words/position_embedding'
  with pytest.raises(ValueError, match=words):
    first_stage.plan(SECOND, named(FRESH) | {words: jnp.zeros((4, 8))}, found | {words: jnp.zeros((3, 8))})


def test_the_report_counts_copied_tensors_and_names_the_others():
  manners = {'a': 'copied', 'b': 'copied', 'position_embedding': 'resampled', 'c': 'fresh'}
  assert first_stage.report('runs/first', manners) == (
    'weights of runs/first: 2 of 4 tensors copied; resampled: position_embedding; fresh: c'
  )


FINER = SECOND.clone(group_size=(2, 2, 1), positions='axial')  # 2 x 4 groups of one latent, in place of 1 x 2 of four


def test_latents_go_to_the_groups_at_their_place_and_axial_positions_start_from_means():
  """Latents that hold their group's place, and a table of tokens that is a sum over its axes."""
  coarse = FIRST.clone(group_size=(2, 2, 1))
  assert coarse.layout().groups == (1, 1, 2) and FINER.layout().groups == (1, 2, 4)
  column = np.repeat([0.0, 1.0], 4)[:, None] * np.ones((1, 16))
  frame, row, wide = (np.array(values)[:, None] * np.ones((1, 8)) for values in ([0, 3], [1, 5], [-2, 2]))
  first = parameters(coarse, 0) | {
    'latents': jnp.asarray(column, jnp.float32),
    'position_embedding': jnp.asarray(frame[:, None, None] + row[:, None] + wide, jnp.float32),
  }
  fresh = parameters(FINER, 1)
  manners = first_stage.plan(FINER, named(fresh), named(first), first=coarse)
  tables = [f'{name}_position_embedding' for name in ('frame', 'row', 'column')]
  assert {name for name, manner in manners.items() if manner == 'rearranged'} == {'latents', *tables}
  started = named(first_stage.transfer(fresh, first, manners, FINER.starting_rules(coarse)))
  np.testing.assert_array_equal(np.asarray(started['latents'])[:, 0].reshape(2, 4), [[0, 0, 1, 1]] * 2)
  found = sum(
    np.asarray(started[name])[shape]
    for name, shape in zip(tables, ((slice(None), None, None), (slice(None), None), ...), strict=True)
  )
  line = np.array([0, 0.25, 0.75, 1])
  expected = np.array([0, 3])[:, None, None] + (1 + 4 * line)[:, None] + (-2 + 4 * line)
  np.testing.assert_allclose(found[..., 5], expected, atol=1e-5)
