"""What a run may change when it resumes: the class of every key, and of special changes."""

from __future__ import annotations

import dataclasses

import pytest

from vdm_jax import configuration, models
from vdm_jax.configuration import Change, changes
from vdm_jax.networks import contract

LISTED = {Change.FREE: changes.FREE, Change.ALLOWED: changes.ALLOWED, Change.REFUSED: changes.REFUSED}
CASES = {  # what the case of a resumed run with one change asks
  'training.log_every': Change.FREE,
  'training.accumulation_steps': Change.FREE,
  'model.remat': Change.FREE,
  'model.dtype': Change.FREE,
  'data.path': Change.FREE,
  'training.learning_rate': Change.ALLOWED,
  'training.schedule': Change.ALLOWED,
  'training.ema_decay': Change.ALLOWED,
  'data.batch_size': Change.ALLOWED,
  'data.num_images': Change.ALLOWED,
  'seed': Change.ALLOWED,
  'data.digits.bounce': Change.ALLOWED,
  'data.vocabulary': Change.REFUSED,
  'model.vocabulary': Change.REFUSED,
  'model.text_path': Change.FREE,
  'model.base_channels': Change.REFUSED,
}


@pytest.mark.parametrize('key', CASES)
def test_the_class_of_a_key(key):
  assert configuration.change_of(key) is CASES[key]


@pytest.mark.parametrize('network', models.NETWORKS)
def test_every_key_is_listed_once(network):
  """Only fields of a network may be missing: a network of others' has fields that nobody here knows."""
  fields = {f'model.{field.name}' for field in dataclasses.fields(models.NETWORKS[network])}
  sizes = {f'model.{name}' for name in contract.SHARED}
  keys = set(changes.flatten(changes.plain(configuration.default(network))))
  for key in keys:
    twin = key.replace('model.', 'data.', 1)
    names = {key, twin if twin in keys else key}
    found = [
      change
      for change, listed in LISTED.items()
      if any(name == part or (part.endswith('.') and name.startswith(part)) for name in names for part in listed)
    ]
    assert len(found) == 1 or (not found and key in fields - sizes), key


def test_every_listed_key_exists():
  keys = {key for name in models.NETWORKS for key in changes.flatten(changes.plain(configuration.default(name)))}
  for part in sum(LISTED.values(), ()):
    assert part in keys or (part.endswith('.') and any(key.startswith(part) for key in keys)), part


def difference(key, before, after, **others):
  def nested(value):
    config = {}
    for name, content in {key: value, **others}.items():
      section, _, short = name.partition('.')
      config.setdefault(section, {})[short] = content
    return config

  (found,) = changes.differences(nested(before), nested(after))
  return found


def test_micro_batches_are_free_unless_each_has_its_own_dropout_mask():
  assert difference('training.accumulation_steps', 1, 2, **{'model.dropout': 0.0}).change is Change.FREE
  assert difference('training.accumulation_steps', 1, 2, **{'model.dropout': 0.1}).change is Change.ALLOWED


def test_clipping_that_begins_or_ends_has_another_state_of_the_optimizer():
  assert difference('training.clip_norm', 1.0, 2.0).change is Change.ALLOWED
  assert difference('training.clip_norm', 1.0, 0.0).change is Change.REFUSED


def test_equal_values_written_differently_are_no_change():
  assert changes.differences({'data': {'a': 1, 'b': (1, 2)}}, {'data': {'a': 1.0, 'b': [1, 2]}}) == []


def test_a_table_of_options_is_one_value():
  found = difference('training.optimizer_options', {'b1': 0.9}, {'b1': 0.95, 'b2': 0.9})
  assert str(found) == ('training.optimizer_options: {"b1": 0.9} in the workdir, {"b1": 0.95, "b2": 0.9} now')
