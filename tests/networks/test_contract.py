"""The contract of networks: declarations agree with parameters, and invalid networks are errors."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vdm_jax import checkpoints, configuration, diffusion, models
from vdm_jax.networks import FIT, UNet3D, VideoNetwork, decay_mask
from vdm_jax.tools.compilation import programs, remedies
from vdm_jax.tools.doctor import checks
from vdm_jax.types import Conditioning

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# Parameters of both networks that decay, by the last word of their names, and those that do not.
DECAYED, EXEMPT = {'kernel', 'embedding', 'latents', 'keys', 'values'}, {'bias', 'scale'}


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_kernels_tables_and_latents_decay(path):
  config = runpy.run_path(str(path)).get('get_config', lambda: None)()
  if config is None:
    pytest.skip('a module without an experiment')
  if config.model.network not in SECOND_STAGES:
    pytest.skip(f'the names of the parameters of {config.model.network!r} are not listed above')
  if config.data.text == 'words':
    config.data.vocabulary = ('a', 'b')
  model = programs.build_model(config)
  mask = checkpoints.named(model.decay_mask(jax.eval_shape(model.init, jax.random.key(0))))
  words = {name: name.split('/')[-1].split('_')[-1] for name in mask}
  assert set(words.values()) <= DECAYED | EXEMPT
  assert mask == {name: word in DECAYED for name, word in words.items()}


def test_biases_scales_and_vectors_do_not_decay_by_default():
  params = {'gain': np.ones(3), 'table': np.ones((2, 3)), 'dense': {'kernel': np.ones((2, 2)), 'bias': np.ones((3, 4))}}
  expected = {'gain': False, 'table': True, 'dense': {'kernel': True, 'bias': False}}
  assert decay_mask(VideoNetwork(), params) == expected


def test_a_network_may_decide_what_decays():
  class Own(VideoNetwork):
    def decays(self, name, leaf):
      return name == 'dense/bias'

  params = {'dense': {'kernel': np.ones((2, 2)), 'bias': np.ones(2)}}
  assert decay_mask(Own(), params) == {'dense': {'kernel': False, 'bias': True}}


SCALARS = ('frame_interval', 'augmentation_logsnr')
WIDTHS = {'patch_width': 16, 'latent_width': 16, 'condition_width': 16, 'patch_head_width': 8, 'latent_head_width': 8}
SMALL = {'num_frames': 2, 'takes_low_resolution': True, 'scalars': SCALARS}
SECOND_STAGES = {
  'unet3d': [UNet3D(**SMALL, base_channels=64, channel_multipliers=(1,), num_blocks=1, position_embedding=True)],
  'fit': [
    FIT(height=4, width=4, patch_size=(1, 2, 2), group_size=(2, 1, 1), num_latents=4, positions=p, **WIDTHS, **SMALL)
    for p in ('token', 'axial')
  ],
}


@pytest.mark.parametrize('name', models.NETWORKS)
def test_declared_parameters_exist_in_a_second_stage(name):
  kind, names = models.NETWORKS[name], set()
  if name not in SECOND_STAGES:
    declared = [*kind.input_kernels, *kind.position_tables, *kind.second_stage_layers]
    assert not declared, f'{name!r} declares {declared}: add a small second stage of it to SECOND_STAGES'
    pytest.skip(f'{name!r} declares no parameters of a second stage')
  for network in SECOND_STAGES[name]:
    x = jnp.zeros((1, 2, 4, 4, 3))
    params = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1), Conditioning(low_resolution=x))['params']
    names |= set(checkpoints.named(nn.unbox(params)))
  assert {*network.input_kernels, *network.position_tables} <= names
  for layer in network.second_stage_layers:
    assert any(parameter.startswith(f'{layer}/') for parameter in names)


@pytest.mark.parametrize('name', models.NETWORKS)
def test_declared_settings_are_fields(name):
  network = models.NETWORKS[name]
  fields = {field.name for field in dataclasses.fields(network)}
  assert set(network.stage_invariants) <= fields
  if network.remat_choices:
    assert 'remat' in fields, f'{name!r} declares remat_choices: give it a field remat, or leave them out'
    assert network.remat_choices[0] == models.network_fields(name)['remat']


class Plain(VideoNetwork):
  """Takes nothing."""

  features: int = 4

  @nn.compact
  def __call__(self, x, logsnr, cond, carry=None, *, train=False):
    return nn.Dense(x.shape[-1])(x), carry


def forgets_frames(x, carry):
  return x[:, :1], carry


def returns_one_channel(x, carry):
  return x[..., :1], carry


def forgets_carry(x, carry):
  return x


def drops_an_axis(x, carry):
  return x[:, 0], carry


INVALID = {
  forgets_frames: r'Wrong .*shape \(2, 1, 8, 8, 3\) for x of shape \(2, 4, 8, 8, 3\)',
  returns_one_channel: r'Wrong .*shape \(2, 4, 8, 8, 1\) for x of shape \(2, 4, 8, 8, 3\)',
  forgets_carry: r'Wrong .*single array of shape \(2, 4, 8, 8, 3\), not a pair \(output, carry\)',
  drops_an_axis: r'Wrong .*shape \(2, 8, 8, 3\) for x of shape \(2, 4, 8, 8, 3\)',
}


class Wrong(Plain):
  """Its result is that of the static method `result`."""

  @nn.compact
  def __call__(self, x, logsnr, cond, carry=None, *, train=False):
    return self.result(nn.Dense(x.shape[-1])(x), carry)


@pytest.fixture
def register(monkeypatch):
  """Return a function that adds a network to the table, for this test."""

  def add(network):
    monkeypatch.setitem(models.NETWORKS, 'own', network)

  return add


@pytest.mark.parametrize('field', ['process', 'sigma_data', 'text', 'vocabulary', 'upsampling'])
def test_a_field_that_is_a_key_of_model_is_an_error(register, field):
  register(type('Own', (Plain,), {'__annotations__': {field: 'int'}, field: 0, '__module__': __name__}))
  with pytest.raises(ValueError, match=f"'{field}' .*'own' .*`model`"):
    configuration.default('own')


def test_a_field_that_is_a_key_of_model_is_an_error_at_import(register):
  register(type('Own', (Plain,), {'__annotations__': {'process': 'int'}, 'process': 0, '__module__': __name__}))
  with pytest.raises(ValueError, match="'process' .*'own'"):
    runpy.run_path(configuration.__file__)


def test_sizes_of_the_data_are_no_collision(register):
  register(type('Own', (VideoNetwork,), {'__annotations__': {'num_frames': 'int'}, '__module__': __name__}))
  config = configuration.default('own')
  config.data.num_frames = 3
  assert models.build(config.model).module.num_frames == 3


def test_a_field_without_a_default_is_an_error(register):
  register(type('Own', (VideoNetwork,), {'__annotations__': {'depth': 'int'}, '__module__': __name__}))
  with pytest.raises(TypeError, match="'depth' .*'own'"):
    configuration.default('own')


def test_a_network_must_be_a_video_network(register):
  register(nn.Dense)
  with pytest.raises(TypeError, match="'own' .*VideoNetwork"):
    configuration.default('own')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.text': 'words', 'data.vocabulary': ('a',)}, "model.network='own' .*data.text='words'"),
    ({'model.upsampling': 2}, "model.network='own' .*model.upsampling=2"),
  ],
)
def test_conditions_that_are_not_declared_are_errors(register, changes, message):
  register(Plain)
  config = configuration.default('own')
  config.update_from_flattened_dict(changes)
  with pytest.raises(ValueError, match=message):
    models.build(config.model)


def test_fixed_declarations_are_checked_too(register):
  register(type('Own', (Plain,), {'takes_text': True, '__module__': __name__}))
  config = configuration.default('own')
  with pytest.raises(ValueError, match="model.network='own' .*data.text='none'"):
    models.build(config.model)
  config.data.update(text='words', vocabulary=('a',))
  with pytest.raises(ValueError, match='vocabulary_size'):
    models.build(config.model)


@pytest.mark.parametrize('result', INVALID, ids=lambda result: result.__name__)
def test_a_result_that_violates_the_contract_is_an_error(register, result):
  """In training, at initialization, and reported by the doctor; `models.build` alone does not trace the network."""
  register(type('Wrong', (Wrong,), {'result': staticmethod(result), '__module__': __name__}))
  config = configuration.default('own')
  config.data.update(num_frames=4, height=8, width=8, batch_size=2)
  config.training.optimizer, config.training.self_condition_rate = 'adam', 0.0
  model = models.build(config.model)
  params = {'Dense_0': {'kernel': jnp.zeros((3, 3)), 'bias': jnp.zeros(3)}}
  with pytest.raises(ValueError, match=INVALID[result]):
    x, key = jnp.zeros((2, 4, 8, 8, 3)), jax.random.key(0)
    parts = {'process': model.process, 'parameterization': model.parameterization, 'logsnr': jnp.zeros(2)}
    jax.eval_shape(lambda p: diffusion.denoising_loss(model.network(p), x, Conditioning(), key, **parts), params)
  of_one = INVALID[result].replace(r'\(2', r'\(1')
  with pytest.raises(ValueError, match=of_one):
    jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(ValueError, match=of_one):
    checks.check_model(config)


def test_a_network_without_declarations_is_unconditional(register):
  register(Plain)
  config = configuration.default('own')
  model = models.build(config.model)
  assert remedies.remat(config) == {}
  assert model.num_classes == 0 and not model.takes('frame_interval') and not model.module.remat_choices
  assert models.scalars(model.config) == ()
  with pytest.raises(NotImplementedError):
    VideoNetwork().apply({}, jnp.zeros((1, 1, 2, 2, 3)), jnp.zeros(1), Conditioning())
