"""Scores are those of the run, checkpoint and clips that were named: nothing kept for others is used."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from helpers.tiny_runs import FVD, MEASURED, SMALL, Networks, compiled_once, make_run

from vdm_jax import configuration, generation, jobs
from vdm_jax.evaluation import PROTOCOLS, EvalOptions, feature_files
from vdm_jax.runs import Run

# A protocol that stores samples, and one that stores features.
MEAN = SMALL._replace(
  name='mean',
  metrics=(),
  record_figures=('mean',),
  evaluate=lambda generate, data, **known: {
    'protocol': 'mean',
    'mean': float(generate(['a 3 moving left', 'a 4 moving up']).mean()),
  },
)
FRECHET = SMALL._replace(
  name='frechet', metrics=(FVD,), references=('test',), training_clips=0, num_samples=8, num_references=8
)
WORDS = MEASURED | {
  'data.text': 'words',
  'data.vocabulary': ('a', '3', '4', 'moving', 'left', 'up'),
  'data.text_length': 4,
}


@pytest.fixture
def networks(monkeypatch):
  fakes = Networks()
  monkeypatch.setattr(generation, 'make_generator', compiled_once())
  monkeypatch.setattr(feature_files, 'features', fakes)
  return fakes


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two runs of one configuration and step, and a second stage of either."""
  folder = tmp_path_factory.mktemp('runs')
  for name, seed in (('a', 0), ('b', 1)):
    make_run(folder / name, WORDS, seed=seed)
  return folder


def evaluate(workdir, out, protocol=MEAN, **changes):
  config = configuration.from_dict(Run(workdir).config)
  config.update_from_flattened_dict(changes)
  features = {'features': 'random'} if protocol.metrics else {}
  with mock.patch.dict(PROTOCOLS, {protocol.name: protocol}):
    assert jobs.evaluate(config, Run(workdir), EvalOptions(protocol.name, batch_size=8, out=str(out), **features)) == 0
  record = json.loads((out / f'{protocol.name}.json').read_text())
  return record['mean'] if protocol is MEAN else record['metrics']['fvd']['test']['value']


@pytest.mark.parametrize('protocol', [MEAN, FRECHET], ids=lambda protocol: protocol.name)
def test_two_runs_in_one_folder(runs, networks, protocol, tmp_path):
  alone = [evaluate(runs / name, tmp_path / name, protocol) for name in 'ab']
  assert alone[0] != alone[1]
  together = [evaluate(runs / name, tmp_path / 'both', protocol) for name in 'ab']
  assert together == alone
