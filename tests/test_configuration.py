"""One list of keys: nothing else can be set, sizes are set once, and a file of values is never executed."""

from __future__ import annotations

import json

import pytest
from helpers.messages import raises
from helpers.tiny_networks import WORDS, make_config

from vdm_jax import configuration, models
from vdm_jax.names import RENAMED_SETTINGS
from vdm_jax.runs import Run


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
def test_the_model_reads_what_data_sets(key, value):
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
  ('path', 'value', 'named'),
  [
    ('training.learning_rat', 1.0, ('config.training.learning_rat ', 'config.training.learning_rate?')),
    ('trainin', {}, ('config.trainin ', 'config.training?')),
    ('data.digits.zzz', 1, ('config.data.digits.zzz ', 'bounce, clip_frames, colors')),
    ('seed', 1.5, ('config.seed=1.5', 'int')),
    ('seed', True, ('config.seed=True', 'int')),
    ('data.flip', 1, ('config.data.flip=1', 'bool')),
    ('training.learning_rate', '3e-4', ("config.training.learning_rate='3e-4'", 'float')),
    ('training.learning_rate', True, ('config.training.learning_rate=True', 'float')),
    ('model.channel_multipliers', 2, ('config.model.channel_multipliers=2', 'tuple')),
    ('data.digits', 3, ('config.data.digits=3', 'dict')),
    ('model', 'unet3d', ("config.model='unet3d'", 'dict')),
    ('data.path', None, ('config.data.path=None', 'str')),
    ('model.network', 'unet', ("model.network='unet'", "'unet3d'")),
  ],
)
def test_wrong_values_are_named(path, value, named):
  config = values()
  *sections, key = path.split('.')
  section = config
  for name in sections:
    section = section[name]
  section[key] = value
  with pytest.raises(ValueError) as error:
    configuration.validate(config)
  assert all(part in str(error.value) for part in named), error.value


@pytest.mark.parametrize('path', ['seed', 'model', 'training.beta2', 'data.digits.colors'])
def test_missing_keys_are_named(path):
  config = values()
  *sections, key = path.split('.')
  section = config
  for name in sections:
    section = section[name]
  del section[key]
  with pytest.raises(ValueError, match=f'^config.{path} is missing'):
    configuration.validate(config)


def test_the_keys_of_overrides_are_checked():
  for name in ('config.seed', 'config.data.digits.colors', 'config.model.num_blocks', 'config.sampling.gamma'):
    assert configuration.unknown_key(name) is None
  for name, near in (('config.sampling.gama', 'gamma'), ('config.sampling.guidance', 'guidance_low')):
    message = configuration.unknown_key(name)
    assert message.startswith(f'{name} ') and message.endswith(f'did you mean config.sampling.{near}?')
  assert 'config.data.flip.always ' in configuration.unknown_key('config.data.flip.always')
  for former, current in RENAMED_SETTINGS.items():
    assert configuration.unknown_key(f'config.{former}').endswith(f'did you mean config.{current}?')
    assert configuration.unknown_key(f'config.{current}') is None


def test_overrides_are_checked_against_the_configuration_that_they_change():
  fit = configuration.default('fit')
  assert configuration.unknown_key('config.model.latent_width', fit) is None
  message = configuration.unknown_key('config.model.latent_widht', fit)
  assert message.endswith('did you mean config.model.latent_width?')
  assert configuration.unknown_key('config.model.base_channels', fit) is not None


@pytest.mark.parametrize(('start', 'network'), [('unet3d', 'fit'), ('fit', 'unet3d')])
def test_the_network_cannot_be_changed_after_default(start, network):
  config = configuration.default(start)
  config.model.network = network
  with pytest.raises(ValueError, match=rf"model.network='{network}'.*'{start}'.*default\('{network}'\)"):
    configuration.validate(config)


def test_an_integer_is_accepted_as_a_float_and_a_list_as_a_tuple():
  config = values()
  config['training']['clip_norm'], config['model']['channel_multipliers'] = 1, [1, 2]
  configuration.validate(config)


def test_a_file_of_values_round_trips(tmp_path):
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
  with pytest.raises(ValueError, match='^config.sed .* config.seed'):
    configuration.read(file)
  file.write_text('from vdm_jax import configuration\nget_config = configuration.default\n')
  with pytest.raises(json.JSONDecodeError):
    configuration.read(file)
  with pytest.raises(FileNotFoundError):
    configuration.read(tmp_path / 'none.json')


def test_the_vocabulary_of_the_dataset_is_filled_in_once():
  config = configuration.resolve(make_config(data__text='words'), WORDS)
  assert config.data.vocabulary == config.model.vocabulary == WORDS
  assert configuration.resolve(config, ('other',)).data.vocabulary == WORDS
  assert configuration.resolve(make_config(), WORDS).data.vocabulary == ()
  assert models.build(config.model).module.vocabulary_size == len(WORDS) + 2


def test_to_dict_is_plain():
  found = values()
  assert type(found) is dict and type(found['data']['digits']) is dict
  json.dumps(found)


def test_former_keys_of_a_run_are_read_under_their_current_names():
  old = values()
  for number, (former, current) in enumerate(RENAMED_SETTINGS.items()):
    (section, key), (target, new) = former.split('.'), current.split('.')
    del old[target][new]
    old[section][key] = number + 0.5
  before = json.loads(json.dumps(old))
  found = configuration.from_dict(old)
  for number, current in enumerate(RENAMED_SETTINGS.values()):
    section, key = current.split('.')
    assert found[section][key] == number + 0.5
  assert json.loads(json.dumps(old)) == before, 'the argument is not changed'


def test_the_number_of_steps_before_guidance_oscillates_is_read_as_a_share_of_them():
  old = values()
  old['sampling'].update(num_steps=256, guidance_start=64)  # an integer, as version 0.2 stored it
  assert configuration.from_dict(old).sampling.guidance_start == 0.25
  old['sampling'].update(num_steps=40, guidance_start=100)  # never reached: constant
  assert configuration.from_dict(old).sampling.guidance_start == 1.0
  now = configuration.default()
  now.sampling.guidance_start = 1  # a share, which the configuration stores as a float
  assert configuration.from_dict(json.loads(json.dumps(now.to_dict()))).sampling.guidance_start == 1.0


def test_a_run_with_both_names_of_a_key_is_rejected():
  former, current = next(iter(RENAMED_SETTINGS.items()))
  section, key = former.split('.')
  old = values()
  old[section][key] = 0.5
  with pytest.raises(ValueError, match=f'config.{former} .* config.{current}'):
    configuration.from_dict(old)


def test_keys_that_a_run_lacks_have_their_defaults(tmp_path):
  old = values()
  for section, key in (('data', 'image_rate'), ('sampling', 'churn_noise'), ('model', 'upsampling')):
    del old[section][key]
  (tmp_path / 'config.json').write_text(json.dumps(old))
  assert configuration.read(tmp_path / 'config.json').to_dict() == configuration.default().to_dict()
  assert configuration.complete({'model': {'network': 'of another library'}}) == {
    'model': {'network': 'of another library'}
  }


def test_the_elements_of_tuples_have_their_types():
  """`--config.model.channel_multipliers=abc` arrives as ('abc',)."""
  for network, key, value, wrong in (
    ('unet3d', 'model.channel_multipliers', ('abc',), 'whole numbers'),
    ('fit', 'model.patch_size', (1, '4', 4), 'whole numbers'),
    ('fit', 'sampling.original_size', (720, 12.5), 'whole numbers'),
    ('unet3d', 'sampling.original_size', (720, True), 'whole numbers'),
    ('unet3d', 'data.vocabulary', ('a', 3), 'strings'),
    ('unet3d', 'data.mixture', (None,), 'strings'),
    ('fit', 'model.scalars', (1,), 'strings'),
  ):
    config = configuration.default(network)
    section, name = key.split('.')
    config[section][name] = value
    with raises(ValueError, f'config.{key}={value!r}', wrong):
      configuration.validate(config)


def test_runs_made_before_the_rule_of_words_keep_their_words():
  old = values()
  old['data'] |= {'text': 'words', 'vocabulary': ['cars', 'cars,'], 'text_length': 3}
  old['model'] |= {'text': 'words', 'vocabulary': ['cars', 'cars,'], 'text_length': 3}
  for section in ('data', 'model'):
    old[section].pop('word_rule')
  config = configuration.from_dict(old)
  assert config.data.word_rule == config.model.word_rule == 'whitespace'
  assert models.build(config.model).encode(['Cars, cars cars.'])[0].tolist() == [[3, 2, 1]]
  new = configuration.resolve(make_config(data__text='words'), WORDS)
  assert new.data.word_rule == new.model.word_rule == 'unicode'
  assert configuration.complete(configuration.to_dict(new))['data']['word_rule'] == 'unicode'


def test_the_shipped_models_keep_their_words():
  config = Run('pretrained:digits').config
  assert config['model']['word_rule'] == 'whitespace'
  encode = models.build(config['model']).encode
  words = config['model']['vocabulary']
  expected = [[2 + words.index(word) for word in ['a', '3', 'moving', 'left']]]
  assert encode(['A 3 moving left'])[0][:, :4].tolist() == expected
  assert encode.unknown_words('a 3, moving') == ('3,',)
