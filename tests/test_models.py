"""Building models: every combination has the right mathematics, and conditions are checked."""

from __future__ import annotations

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.tiny_networks import FRAMES, SIZE, WORDS, draw, make_config, normal

from vdm_jax import diffusion, models, partitioning
from vdm_jax.networks.embeddings import NOISE_FEATURES
from vdm_jax.types import Conditioning

LOGSNR = np.array([-3.0, 0.5, 4.0], np.float32)


def build(**changes):
  return models.build(make_config(**{f'model__{key}': value for key, value in changes.items()}).model)


PROCESSES = {'variance_preserving': diffusion.variance_preserving(), 'input_scaled': diffusion.input_scaled(4.0)}
PARAMETERIZATIONS = {
  'eps': diffusion.predict_eps,
  'v': diffusion.predict_v,
  'x': diffusion.predict_x,
  'edm': diffusion.edm(0.5),
  'snap': diffusion.snap(0.5),
}


def test_all_entries_of_the_tables_are_tested():
  assert set(PROCESSES) == set(models.PROCESSES) and set(PARAMETERIZATIONS) == set(models.PARAMETERIZATIONS)


@pytest.mark.parametrize('parameterization', PARAMETERIZATIONS)
@pytest.mark.parametrize('process', PROCESSES)
def test_every_pair_has_its_parts_and_inverts_its_target(process, parameterization):
  sigma_in = 4.0 if process == 'input_scaled' else 1.0
  model = build(process=process, parameterization=parameterization, sigma_in=sigma_in, sigma_data=0.5)
  alpha, sigma = model.process.alpha(LOGSNR), model.process.sigma(LOGSNR)
  np.testing.assert_array_equal((alpha, sigma), (PROCESSES[process].alpha(LOGSNR), PROCESSES[process].sigma(LOGSNR)))
  c = model.parameterization(alpha, sigma)
  for found, expected in zip(c, PARAMETERIZATIONS[parameterization](alpha, sigma), strict=True):
    np.testing.assert_array_equal(found, expected)
  x, eps = normal(3), normal(3, seed=1)
  z = diffusion.diffuse(model.process, x, eps, LOGSNR)
  np.testing.assert_allclose(c.skip * z + c.out * (c.target_x * x + c.target_eps * eps), x, atol=1e-5)


@pytest.mark.parametrize(
  ('settings', 'expected'),
  [
    (
      {'logsnr': 'cosine', 'logsnr_min': -8.0, 'logsnr_max': 9.0, 'logsnr_shift': -2.0},
      diffusion.cosine_sampler(logsnr_min=-8.0, logsnr_max=9.0, shift=-2.0),
    ),
    (
      {'logsnr': 'lognormal', 'lognormal_mean': -1.0, 'lognormal_std': 0.7, 'sigma_in': 4.0, 'process': 'input_scaled'},
      diffusion.lognormal_sampler(mean=-1.0, std=0.7, sigma_in=4.0),
    ),
  ],
)
def test_training_levels_follow_the_configuration(settings, expected):
  rng = jax.random.key(3)
  np.testing.assert_array_equal(build(**settings).sample_logsnr(rng, 16), expected(rng, 16))


def test_sampling_grids_use_the_range_and_scale_of_the_model():
  model, karras = build(logsnr_min=-8.0, logsnr_max=9.0), {'sigma_min': 0.01, 'sigma_max': 50.0, 'rho': 5.0}
  expected = diffusion.cosine_levels(5, logsnr_min=-8.0, logsnr_max=9.0)
  np.testing.assert_array_equal(model.grid('cosine', 5, **karras), expected)
  model = build(process='input_scaled', sigma_in=4.0)
  np.testing.assert_array_equal(model.grid('karras', 5, **karras), diffusion.karras_grid(5, **karras, sigma_in=4.0))
  with pytest.raises(ValueError, match="sampling.grid='karas' .*'karras'"):
    model.grid('karas', 5, **karras)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'network': 'unet'}, "model.network='unet' .*'unet3d'"),
    ({'process': 'variance_exploding'}, "model.process='variance_exploding' .*'variance_preserving'"),
    ({'parameterization': 'sanp'}, "model.parameterization='sanp' .*'snap'"),
    ({'logsnr': 'uniform'}, "model.logsnr='uniform' .*cosine, lognormal"),
    ({'sigma_in': 4.0}, "model.sigma_in=4.0 .*'variance_preserving'"),
    ({'frame_logsnr': 'own'}, "model.frame_logsnr='own' .*independent"),
    ({'noise_input': 'eps'}, "model.noise_input='eps' .*sigma"),
    ({'noise_input': 'sigma'}, "model.noise_input='sigma' .*'variance_preserving'"),
    ({'image_sigma_in': 1.0}, "model.image_sigma_in=1.0 .*'variance_preserving'"),
    ({'process': 'input_scaled', 'image_sigma_in': 1.0}, "model.frame_logsnr='shared'.*'images'"),
  ],
)
def test_invalid_settings_are_errors(settings, message):
  with pytest.raises(ValueError, match=message):
    build(**settings)


# ---- The network -----------------------------------------------------------------------------------------------------


def words_model(**changes):
  """Return a model with words, classes and dropout, and random parameters."""
  settings = {'data__text': 'words', 'data__vocabulary': WORDS, 'model__num_classes': 3, 'model__dropout': 0.5}
  settings |= {'model__channel_multipliers': (1,), 'model__attention_resolutions': ()}  # faster to compile
  model = models.build(make_config(**settings, **changes).model)
  return model, draw(jax.eval_shape(model.init, jax.random.key(0)))


X = normal(3, FRAMES, SIZE, SIZE, 3)


def test_the_denoiser_preconditions_the_network():
  model = build(process='input_scaled', parameterization='snap', sigma_in=4.0, sigma_data=0.5)
  params = draw(jax.eval_shape(model.init, jax.random.key(0)))
  found, _ = jax.jit(lambda params, z: model.denoiser(params)(z, LOGSNR, Conditioning(), None))(params, X)
  sigma = np.exp(-LOGSNR / 2)[:, None, None, None, None] / 4
  norm, mixed = np.sqrt(sigma**2 + 0.25), sigma**2 + 0.25 / 4
  scaled = X / np.sqrt(sigma**2 + 0.25 / 16)
  apply = jax.jit(lambda params, x: model.module.apply({'params': params}, x, LOGSNR, Conditioning())[0])
  np.testing.assert_allclose(found, 0.25 / mixed * X - sigma * 0.5 * norm / mixed * apply(params, scaled), atol=1e-4)


def test_a_network_may_be_told_sigma_instead_of_the_snr():
  """ln(sigma) / 4 of the process x / sigma_in + sigma eps (EDM's c_noise, which Snap's Table 1 leaves unaltered)."""
  sigma, heard = np.array([0.5, 2.0, 20.0], np.float32), []

  class Heard(models.NETWORKS['unet3d']):
    def __call__(self, x, logsnr, cond, carry=None, *, train=False):
      heard.append(np.asarray(logsnr))
      return x, carry

  for told in ('logsnr', 'sigma'):
    model = build(process='input_scaled', sigma_in=4.0, noise_input=told)
    model = model._replace(module=Heard(num_frames=FRAMES))
    model.network({})(X, -2 * np.log(4 * sigma), Conditioning(), None)
  np.testing.assert_allclose(NOISE_FEATURES['log'](heard[0]) / 1000, np.log(4 * sigma) / 4, rtol=1e-5)
  np.testing.assert_allclose(NOISE_FEATURES['log'](heard[1]) / 1000, np.log(sigma) / 4, rtol=1e-5)


def test_dropout_needs_a_key_and_depends_on_it():
  model, params = words_model()
  cond = model.condition(['two left'] * 3)

  @jax.jit
  def run(params, rng):
    plain, dropped = model.network(params), model.network(params, rng)
    return [network(X, LOGSNR, cond, None)[0] for network in (plain, plain, dropped, dropped)]

  plain, again, dropped, dropped_again = run(params, jax.random.key(1))
  np.testing.assert_array_equal(plain, again)
  np.testing.assert_array_equal(dropped, dropped_again)
  assert np.abs(dropped - plain).max() > 1e-2
  other = run(params, jax.random.key(2))
  np.testing.assert_array_equal(other[0], plain)
  assert np.abs(other[2] - dropped).max() > 1e-2


def test_parameters_depend_on_the_key_and_every_axis_has_a_name():
  """One level without attention: compiling initializers is slow."""
  model = build(channel_multipliers=(1,), attention_resolutions=(), base_channels=4, embedding_layers=1)
  init = jax.jit(model.init)
  params = init(jax.random.key(0))
  same, other = init(jax.random.key(0)), init(jax.random.key(1))
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
    lambda leaf: (leaf.shape, jnp.dtype('float32')), abstract
  )
  jax.tree.map(np.testing.assert_array_equal, same, params)
  assert np.abs(other['stem']['kernel'] - params['stem']['kernel']).max() > 1e-2
  names = jax.tree.map(lambda leaf, spec: len(spec) == leaf.ndim, params, model.logical_axes)
  assert all(jax.tree.leaves(names))
  partitioning.param_shardings(partitioning.make_mesh({}), abstract, model.logical_axes)


def test_the_network_is_built_for_its_conditions():
  model, params = words_model()
  assert params['condition']['words']['embedding'].shape == (len(WORDS) + 2, 16)
  assert params['condition']['words']['position_embedding'].shape == (3, 16)
  assert params['condition']['label_embedding'].shape == (3, 16)
  assert model.module.takes_text and model.video_shape == (FRAMES, SIZE, SIZE, 3)
  plain = build()
  assert not plain.module.takes_text and 'condition' not in jax.eval_shape(plain.init, jax.random.key(0))
  assert model.logical_axes['condition']['label_embedding'] == nn.get_partition_spec(
    nn.LogicallyPartitioned(params['condition']['label_embedding'], (None, 'embed'))
  )


def test_a_configuration_from_json_builds_the_same_network():
  section = make_config(data__text='words', data__vocabulary=WORDS).model.to_dict()
  found, expected = models.build(json.loads(json.dumps(section))), models.build(section)
  assert found.module == expected.module and hash(found.module) == hash(expected.module)
  assert found.encode == expected.encode and found.video_shape == expected.video_shape


def test_building_does_not_change_the_configuration():
  config = make_config()
  before = config.to_dict()
  models.build(config.model)
  assert config.to_dict() == before


# ---- Conditions ------------------------------------------------------------------------------------------------------


def test_prompts_and_labels_become_a_condition():
  model, _ = words_model()
  cond = model.condition(['two left', 'three'], [2, 0])
  np.testing.assert_array_equal(cond.text, [[[5, 2, 0]], [[4, 0, 0]]])
  np.testing.assert_array_equal(cond.text_mask, [[[True, True, False]], [[True, False, False]]])
  np.testing.assert_array_equal(cond.label, [[2], [0]])
  assert cond.label.dtype == np.int32 and cond.drop is None and cond.num_images() == 0
  assert model.condition() == Conditioning()


def test_unknown_words_are_warned_about():
  model, _ = words_model()
  with pytest.warns(UserWarning) as caught:
    cond = model.condition(['two left', 'Two zebras left zebras'])
  (found,) = [w for w in caught if 'left right three two' in str(w.message)]
  assert "'Two zebras left zebras'" in str(found.message) and "'zebras'" in str(found.message)
  assert found.filename == __file__
  assert cond.text[1, 0, 1] == 1
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    model.condition(['TWO left'])


def test_conditions_that_the_model_does_not_take_are_errors():
  plain, (words, _) = build(), words_model()
  with pytest.raises(ValueError, match="prompts .*data.text='none'"):
    plain.condition(['two'])
  with pytest.raises(ValueError, match='labels .*model.num_classes=0'):
    plain.condition(labels=[0])
  with pytest.raises(ValueError, match='label 3 .*0 to 2'):
    words.condition(labels=[0, 3])
  with pytest.raises(ValueError, match='label -1 .*0 to 2'):
    words.condition(labels=[-1])
  with pytest.raises(ValueError, match="prompts='two' .*list"):
    words.condition('two')
  with pytest.raises(ValueError, match='2 prompts and 1 labels'):
    words.condition(['two', 'three'], [1])
