"""Every number of VDM's appendix A and of Snap's Tables 7 to 9 is in a configuration, and all can be built."""

from __future__ import annotations

import ast
import math
import runpy
from pathlib import Path

import jax
import pytest

from vdm_jax import configuration, data, models
from vdm_jax.errors import InvalidInput
from vdm_jax.jobs import experiments
from vdm_jax.jobs.experiments import load

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'

# Appendix A.1 to A.4, with the displaced columns of A.4 put back; parameters by abstract evaluation. A reconstruction
# weight of 10 is the default, where the paper names none.
COLUMNS = (
  'model.base_channels',
  'model.channel_multipliers',
  'model.num_blocks',
  'model.attention_resolutions',
  'model.head_width',
  'model.embedding_width',
  'model.embedding_layers',
  'model.dropout',
  'model.parameterization',
  'data.num_frames',
  'data.height',
  'data.width',
  'data.frame_skip',
  'data.num_images',
  'data.batch_size',
  'data.flip',
  'data.text',
  'training.beta1',
  'training.beta2',
  'training.learning_rate',
  'training.weight_decay',
  'training.ema_decay',
  'training.num_steps',
  'sampling.num_steps',
  'sampling.langevin_delta',
  'sampling.gamma',
  'sampling.reconstruction_weight',
  'parameters',
)
WIDE, RESOLUTIONS = (1, 2, 4, 8), (8, 16, 32)
BERT = 'bert-large'
PAPER = {
  'ucf101': (
    256,
    WIDE,
    2,
    RESOLUTIONS,
    64,
    1024,
    4,
    0.1,
    'eps',
    16,
    64,
    64,
    1,
    8,
    128,
    False,
    'none',
    0.9,
    0.99,
    3e-4,
    0.0,
    0.9999,
    60_000,
    256,
    0.0,
    0.1,
    10.0,
    1_240_723_459,
  ),
  'bair': (
    128,
    (1, 2, 3, 4),
    3,
    RESOLUTIONS,
    64,
    1024,
    2,
    0.1,
    'v',
    16,
    64,
    64,
    1,
    8,
    128,
    True,
    'none',
    0.9,
    0.999,
    2e-4,
    0.01,
    0.999,
    660_000,
    256,
    0.1,
    0.0,
    50.0,
    158_760_195,
  ),
  'kinetics600': (
    256,
    WIDE,
    2,
    RESOLUTIONS,
    64,
    1024,
    2,
    0.1,
    'v',
    16,
    64,
    64,
    1,
    8,
    256,
    False,
    'none',
    0.9,
    0.99,
    2e-4,
    0.0,
    0.9999,
    220_000,
    128,
    0.1,
    0.0,
    9.0,
    1_238_624_259,
  ),
  't2v_small': (
    128,
    WIDE,
    2,
    RESOLUTIONS,
    64,
    1024,
    4,
    0.0,
    'eps',
    16,
    64,
    64,
    1,
    8,
    128,
    False,
    BERT,
    0.9,
    0.99,
    3e-4,
    0.0,
    0.9999,
    200_000,
    256,
    0.0,
    0.3,
    10.0,
    331_664_387,
  ),
  't2v_small:images4': (
    128,
    WIDE,
    2,
    RESOLUTIONS,
    64,
    1024,
    4,
    0.0,
    'eps',
    16,
    64,
    64,
    1,
    4,
    128,
    False,
    BERT,
    0.9,
    0.99,
    3e-4,
    0.0,
    0.9999,
    200_000,
    256,
    0.0,
    0.3,
    10.0,
    331_664_387,
  ),
  't2v_small:images0': (
    128,
    WIDE,
    2,
    RESOLUTIONS,
    64,
    1024,
    4,
    0.0,
    'eps',
    16,
    64,
    64,
    1,
    0,
    128,
    False,
    BERT,
    0.9,
    0.99,
    3e-4,
    0.0,
    0.9999,
    200_000,
    256,
    0.0,
    0.3,
    10.0,
    331_664_387,
  ),
  't2v_large': (
    256,
    WIDE,
    2,
    RESOLUTIONS,
    64,
    1024,
    4,
    0.0,
    'eps',
    16,
    64,
    64,
    1,
    8,
    128,
    False,
    BERT,
    0.9,
    0.99,
    3e-4,
    0.0,
    0.9999,
    700_000,
    256,
    0.0,
    0.3,
    10.0,
    1_244_921_859,
  ),
  't2v_large:skip4': (
    256,
    WIDE,
    2,
    RESOLUTIONS,
    64,
    1024,
    4,
    0.0,
    'eps',
    16,
    64,
    64,
    4,
    8,
    128,
    False,
    BERT,
    0.9,
    0.99,
    3e-4,
    0.0,
    0.9999,
    700_000,
    256,
    0.0,
    0.3,
    10.0,
    1_244_921_859,
  ),
  't2v_large_9x128': (
    128,
    (1, 2, 4, 8, 16),
    2,
    RESOLUTIONS,
    128,
    1024,
    4,
    0.0,
    'eps',
    9,
    128,
    128,
    1,
    7,
    128,
    False,
    BERT,
    0.9,
    0.99,
    2e-4,
    0.0,
    0.9999,
    800_000,
    256,
    0.0,
    0.3,
    10.0,
    1_249_959_939,
  ),
}


def build(config) -> models.Model:
  """The configuration's model; a stand-in for its frozen encoder, whose files are not needed for shapes."""
  frozen = config.data.text not in ('none', 'words')
  return models.build(config.model, encode=(lambda captions: None) if frozen else None)


COUNTED: dict[str, int] = {}


def count(config) -> int:
  """Parameters of the configuration's network; each network is traced once."""
  network = repr(sorted(config.model.to_dict().items()))
  if network not in COUNTED:
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    COUNTED[network] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  return COUNTED[network]


def settings(config, columns) -> dict:
  """The values of dotted keys."""
  return {column: config[column.split('.')[0]][column.split('.')[1]] for column in columns}


@pytest.mark.parametrize('name', PAPER)
def test_numbers_of_appendix_a(name):
  config = load(name)
  configuration.validate(config)
  expected = dict(zip(COLUMNS, PAPER[name], strict=True))
  assert settings(config, COLUMNS[:-1]) | {'parameters': count(config)} == expected
  assert config.model.process == 'variance_preserving' and config.model.logsnr == 'cosine'
  assert (config.model.logsnr_min, config.model.logsnr_max) == (-20.0, 20.0)
  assert config.training.optimizer == 'adam'


# ---- Snap Video ------------------------------------------------------------------------------------------------------

# Tables 7 and 8, all axes in the order time, height, width; 40 rows are 36 plus 4 of padding.
TABLE_7 = (
  'data.num_frames',
  'data.height',
  'data.width',
  'model.base_channels',
  'model.channel_multipliers',
  'model.num_blocks',
  'model.attention_resolutions',
  'model.head_width',
  'model.embedding_width',
  'training.condition_drop_rate',
  'model.dropout',
  'model.modulation',
)
UNETS = {
  'snap_unet_85m': (16, 40, 64, 128, (1, 2, 2, 3), 2, (8, 16, 32), 64, 768, 0.1, 0.1, 'film'),
  'snap_unet_284m': (16, 40, 64, 192, (1, 2, 3, 4), 2, (8, 16, 32), 64, 768, 0.1, 0.1, 'film'),
}
TABLE_8 = (
  'data.num_frames',
  'data.height',
  'data.width',
  'model.patch_size',
  'model.group_size',
  'model.cross_feed_forward',
  'model.patch_width',
  'model.num_latents',
  'model.latent_width',
  'model.num_blocks',
  'model.num_global_layers',
  'model.num_local_layers',
  'model.patch_head_width',
  'model.latent_head_width',
  'model.self_conditioning',
  'training.self_condition_rate',
  'training.condition_drop_rate',
  'model.dropout',
  'model.condition_width',
)
PATCH, GROUP = (1, 4, 4), (16, 5, 4)
FITS = {
  'snap_fit_500m': (16, 40, 64, PATCH, GROUP, True, 768, 512, 1024, 6, 4, 0, 48, 64, True, 0.9, 0.1, 0.1, 768),
  'snap_fit_3b9': (16, 40, 64, PATCH, GROUP, True, 1024, 768, 3072, 6, 4, 0, 64, 128, True, 0.9, 0.1, 0.1, 1024),
  'snap_fit_3b9_upsampler': (
    16,
    288,
    512,
    PATCH,
    (16, 18, 16),
    True,
    1024,
    768,
    3072,
    6,
    4,
    0,
    64,
    128,
    True,
    0.9,
    0.1,
    0.1,
    1024,
  ),
}
TABLE_9 = (
  'training.optimizer',
  'training.learning_rate',
  'training.schedule',
  'training.num_steps',
  'data.batch_size',
  'training.beta1',
  'training.beta2',
  'training.weight_decay',
  'training.warmup_steps',
  'training.ema_half_life',
)
ADAM = ('adam', 1e-4, 'cosine', 550_000, 4096, 0.9, 0.999, 0.01, 10_000, 6_000.0)
LAMB = ('lamb', 5e-3, 'cosine', 550_000, 4096, 0.9, 0.99, 0.01, 10_000, 6_000.0)
TRAINING = {
  'snap_unet_85m': ADAM,
  'snap_unet_284m': ADAM,
  'snap_fit_500m': LAMB,
  'snap_fit_3b9': LAMB,
  'snap_fit_3b9_upsampler': ('lamb', 5e-3, 'cosine', 370_000, 320, 0.9, 0.99, 0.01, 10_000, 6_000.0),
}
# Beyond the paper's counts: relative positions (63,488), and the upsampler's token of its input's noise (1,312,768).
SNAP_PARAMETERS = {
  'snap_unet_85m': 85_611_523 + 63_488,
  'snap_unet_284m': 281_084_163 + 63_488,
  'snap_fit_500m': 495_040_048,
  'snap_fit_3b9': 3_912_307_760,
  'snap_fit_3b9_upsampler': 3_909_956_656 + 1_312_768,
}


@pytest.mark.parametrize('name', SNAP_PARAMETERS)
def test_numbers_of_snaps_tables(name):
  config = load(name)
  configuration.validate(config)
  columns, row = (TABLE_7, UNETS[name]) if name in UNETS else (TABLE_8, FITS[name])
  assert settings(config, columns) == dict(zip(columns, row, strict=True))
  assert settings(config, TABLE_9) == dict(zip(TABLE_9, TRAINING[name], strict=True))
  assert count(config) == SNAP_PARAMETERS[name]


@pytest.mark.parametrize('name', SNAP_PARAMETERS)
def test_snaps_diffusion_and_sampling(name):
  """Section 3.5: sigma_in = s sqrt(T), with s = width / 64; section 3.6: 256 and 40 deterministic steps."""
  config = load(name)
  second = 'upsampler' in name
  model = config.model
  assert (model.process, model.parameterization, model.sigma_data) == ('input_scaled', 'snap', 1.0)
  assert model.sigma_in == config.data.width / 64 * math.sqrt(config.data.num_frames)
  assert (model.logsnr, model.lognormal_mean, model.lognormal_std) == ('lognormal', -1.2, 1.2)
  sampling = config.sampling
  assert (sampling.num_steps, sampling.step, sampling.grid) == (40 if second else 256, 'heun', 'karras')
  assert (sampling.sigma_min, sampling.sigma_max, sampling.rho, sampling.churn) == (0.002, 80.0, 7.0, 0.0)
  assert sampling.threshold == 'dynamic' and sampling.guidance_start > 0 and sampling.fps == 24
  assert config.data.image_rate == 0.5 and config.data.num_images == 0
  assert config.data.height - 2 * config.data.pad_rows == (288 if second else 36)
  assert (model.upsampling, config.training.first_stage) == ((8, 'runs/snap_fit_3b9') if second else (1, ''))


@pytest.mark.parametrize(
  ('name', 'tokens', 'groups'), [('snap_fit_500m', 2_560, 8), ('snap_fit_3b9_upsampler', 147_456, 32)]
)
def test_patch_tokens(name, tokens, groups):
  layout = build(load(name)).module.layout()
  assert math.prod(layout.grid) == tokens and math.prod(layout.groups) == groups


# Table 3 by the text's labels: sigma_data, sigma_in.
TABLE_3 = {'i': (0.5, 1.0), 'ii': (0.5, 4.0), 'iii': (1.0, 2.0), 'ours': (1.0, 4.0)}


@pytest.mark.parametrize('row', TABLE_3)
def test_rows_of_table_3_differ_in_the_process_alone(row):
  ours, config = load('snap_fit_500m'), load(f'snap_ablation:{row}')
  assert (config.model.sigma_data, config.model.sigma_in) == TABLE_3[row]
  assert config.model.parameterization == ('edm' if row == 'i' else 'snap')
  for key in ('sigma_data', 'sigma_in', 'parameterization'):
    config.model[key] = ours.model[key]
  assert config.to_dict() == ours.to_dict()


def test_row_iv_of_table_3_has_single_images_with_a_process_of_their_own():
  """The paper's row (iv) has images: 2,048 beside 2,048 videos, with sigma_in 1 where videos have 4."""
  config = load('snap_ablation:iv')
  assert (config.data.batch_size, config.data.num_images, config.data.image_rate) == (2048, 1, 0)
  assert (config.model.sigma_in, config.model.image_sigma_in, config.model.frame_logsnr) == (4, 1, 'images')
  assert count(config) == SNAP_PARAMETERS['snap_unet_85m']


def test_networks_of_the_paper_are_told_sigma_unless_two_stages_share_weights():
  told = {name: load(name).model.noise_input for name in experiments.names() if name.startswith('snap')}
  stages = {'snap_fit_3b9', 'snap_fit_3b9_upsampler'}
  assert told == {name: 'logsnr' if name in stages else 'sigma' for name in told}


@pytest.mark.parametrize(
  'row',
  [
    'iv',
    'unet_85m',
    'unet_284m',
    'fit_3b9',
    'patch_2_frames',
    'group_8_frames',
    'latents_256',
    'local_layers',
    'vanilla_fit',
  ],
)
def test_other_rows_of_the_ablations_can_be_built(row):
  config = load(f'snap_ablation:{row}')
  configuration.validate(config)
  names = {f'snap_{row}'} & SNAP_PARAMETERS.keys()
  assert all(SNAP_PARAMETERS[name] == count(config) for name in names) and count(config) > 3e7
  changed = {key for key, value in config.model.items() if value != load('snap_fit_500m').model.get(key)}
  assert changed, row


FILES = sorted(CONFIGS / f'{name}.py' for name in experiments.names())


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_a_docstring_is_a_model_card(file):
  doc = ast.get_docstring(ast.parse(file.read_text()))
  assert f'python -m vdm_jax.main --config=configs/{file.name} --workdir=runs/{file.stem}' in doc
  config = load(file.stem)
  configuration.validate(config)
  if config.data.text == 'words':
    own = tuple(map(str, range(500)))  # of a folder that is not here
    config = configuration.resolve(config, data.vocabulary(config.data) if config.data.name == 'digits' else own)
  parameters = f'{count(config):,}'
  assert parameters in doc, f'write the number of parameters, {parameters}, into the docstring of configs/{file.name}'


@pytest.mark.parametrize('name', ['t2v_large:skip9', 't2v_small:images9', 'snap_ablation:v'])
def test_an_unknown_variant_is_an_error(name):
  experiment, variant = name.split(':')
  with pytest.raises(ValueError, match=f"{experiment}='{variant}' is unknown: choose one of "):
    load(name)


def test_a_name_is_found_from_anywhere_and_a_file_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert set(experiments.names()) == {file.stem for file in CONFIGS.glob('*.py')} - {'__init__'}
  assert load('t2v_large:skip4').to_dict() == load(f'{CONFIGS}/t2v_large.py:skip4').to_dict()
  with pytest.raises(InvalidInput, match='--config=configs/digit.py .* digits'):
    load('configs/digit.py')
  Path('mine.py').write_text(
    'from vdm_jax.configs import digits\n\ndef get_config():\n  config = digits.get_config()\n  config.seed = 7\n'
    '  return config\n'
  )
  assert load('mine.py').seed == 7 and load('digits_long').seed == 0


@pytest.mark.parametrize('name', ['digit', 't2v_larg:skip4', 'runs/none.py', ''])
def test_what_is_neither_a_file_nor_a_name_is_an_error(name):
  with pytest.raises(InvalidInput, match=f'--config={name} '):
    experiments.split(name)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_an_experiment_is_the_same_by_name_and_executed_as_a_file(file):
  by_file = runpy.run_path(str(file))['get_config']()
  assert by_file.to_dict() == load(file.stem).to_dict()
  assert 'runpy' not in file.read_text()
