"""One list of keys: nothing else can be set, shapes are stated once, and a file of values is never executed."""

from __future__ import annotations

import json

import pytest
from helpers.tiny_networks import WORDS, make_config, says

from vdm_jax import configuration, models


def values():
  return configuration.to_dict(configuration.default())


def test_only_known_keys_can_be_set():
  config = configuration.default()
  with pytest.raises(AttributeError):
    config.training.learning_rat = 1.0
  with pytest.raises(AttributeError):
    config.extra = {}
  with pytest.raises((AttributeError, KeyError)):
    config.update({'model': {'depth': 3}})
  with pytest.raises(TypeError):
    config.training.num_steps = 'many'


def test_the_defaults_are_valid_and_build_the_papers_model():
  config = configuration.default()
  configuration.validate(config)
  assert models.build(config.model).video_shape == (16, 64, 64, 3)


def test_defaults_are_fresh_each_time():
  first = configuration.default()
  first.data.digits.bounce, first.training.num_steps = True, 1
  assert not configuration.default().data.digits.bounce and configuration.default().training.num_steps == 200_000


SHARED = {
  'num_frames': 4,
  'height': 8,
  'width': 16,
  'channels': 1,
  'text': 'words',
  'text_path': 'somewhere',
  'text_length': 5,
  'vocabulary': WORDS,
}


@pytest.mark.parametrize(('key', 'value'), SHARED.items())
def test_what_data_states_the_model_reads(key, value):
  config = configuration.default()
  assert config.model[key] == config.data[key] != value
  config.data[key] = value
  assert config.model[key] == value
  assert configuration.to_dict(config)['model'][key] == value


def test_overrides_reach_the_model_too():
  config = make_config(data__num_frames=3)
  assert config.model.num_frames == 3
  assert models.build(config.model).module.num_frames == 3


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    (
      'training.learning_rat',
      1.0,
      'config.training.learning_rat is not a configuration key: did you mean config.training.learning_rate?',
    ),
    ('trainin', {}, 'config.trainin is not a configuration key: did you mean config.training?'),
    (
      'data.digits.zzz',
      1,
      'config.data.digits.zzz is not a configuration key: '
      'the keys here are bounce, clip_frames, colors, motions, num_digits, random_start, withhold.',
    ),
    ('seed', 1.5, 'config.seed=1.5 is of type float, not int.'),
    ('seed', True, 'config.seed=True is of type bool, not int.'),
    ('data.flip', 1, 'config.data.flip=1 is of type int, not bool.'),
    ('training.learning_rate', '3e-4', "config.training.learning_rate='3e-4' is of type str, not float."),
    ('training.learning_rate', True, 'config.training.learning_rate=True is of type bool, not float.'),
    ('model.channel_multipliers', 2, 'config.model.channel_multipliers=2 is of type int, not tuple.'),
    ('data.digits', 3, 'config.data.digits=3 is of type int, not dict.'),
    ('model', 'unet3d', "config.model='unet3d' is of type str, not dict."),
    ('data.path', None, 'config.data.path=None is of type NoneType, not str.'),
    ('model.network', 'unet', "model.network='unet' is unknown: choose one of unet3d, fit. Did you mean 'unet3d'?"),
  ],
)
def test_wrong_values_are_named(path, value, message):
  config = values()
  *sections, key = path.split('.')
  section = config
  for name in sections:
    section = section[name]
  section[key] = value
  with says(message):
    configuration.validate(config)


@pytest.mark.parametrize('path', ['seed', 'model', 'training.beta2', 'data.digits.colors'])
def test_missing_keys_are_named(path):
  config = values()
  *sections, key = path.split('.')
  section = config
  for name in sections:
    section = section[name]
  del section[key]
  with says(f'config.{path} is missing: start the configuration from vdm_jax.configuration.default().'):
    configuration.validate(config)


def test_the_keys_of_overrides_are_checked():
  for name in ('config.seed', 'config.data.digits.colors', 'config.model.num_blocks', 'config.sampling.gamma'):
    assert configuration.unknown_key(name) is None
  for name, near in (('config.sampling.gama', 'gamma'), ('config.sampling.guidance', 'guidance_low')):
    expected = f'{name} is not a configuration key: did you mean config.sampling.{near}?'
    assert configuration.unknown_key(name) == expected
  expected = 'config.data.flip.always is not a configuration key: config.data.flip is one value.'
  assert configuration.unknown_key('config.data.flip.always') == expected


def test_a_whole_number_is_a_fine_float_and_a_list_a_fine_tuple():
  config = values()
  config['training']['clip_norm'], config['model']['channel_multipliers'] = 1, [1, 2]
  configuration.validate(config)


def test_a_file_of_values_reads_back_as_it_was_written(tmp_path):
  changes = {'seed': 7, 'data__digits__colors': True, 'data__text': 'words', 'data__vocabulary': WORDS}
  config = make_config(**changes, training__learning_rate=1e-7, sampling__gamma=0.3)
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(configuration.to_dict(config)))
  found = configuration.read(file)
  assert configuration.to_dict(found) == configuration.to_dict(config)
  assert found.is_locked and isinstance(found.model.channel_multipliers, tuple)
  assert models.build(found.model).module == models.build(config.model).module
  found.data.num_frames = 2
  assert found.model.num_frames == 2


def test_a_file_of_values_is_checked_and_not_executed(tmp_path):
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(values() | {'sed': 1}))
  with says('config.sed is not a configuration key: did you mean config.seed?'):
    configuration.read(file)
  file.write_text('from vdm_jax import configuration\nget_config = configuration.default\n')
  with pytest.raises(json.JSONDecodeError):
    configuration.read(file)
  with pytest.raises(FileNotFoundError):
    configuration.read(tmp_path / 'none.json')


def test_the_datasets_words_are_filled_in_once():
  config = configuration.resolve(make_config(data__text='words'), WORDS)
  assert config.data.vocabulary == config.model.vocabulary == WORDS
  assert configuration.resolve(config, ('other',)).data.vocabulary == WORDS
  assert configuration.resolve(make_config(), WORDS).data.vocabulary == ()
  assert models.build(config.model).module.vocabulary_size == len(WORDS) + 2


def test_to_dict_is_plain():
  found = values()
  assert type(found) is dict and type(found['data']['digits']) is dict
  json.dumps(found)


def test_a_run_that_knew_fewer_keys_reads_as_their_defaults(tmp_path):
  old = values()
  for section, key in (('data', 'image_rate'), ('sampling', 'churn_noise'), ('model', 'upsampling')):
    del old[section][key]
  (tmp_path / 'config.json').write_text(json.dumps(old))
  assert configuration.read(tmp_path / 'config.json').to_dict() == configuration.default().to_dict()
  assert configuration.complete({'model': {'network': 'of another library'}}) == {
    'model': {'network': 'of another library'}
  }
