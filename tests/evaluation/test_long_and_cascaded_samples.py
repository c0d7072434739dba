"""Samples that are longer than the model's videos, of a size of one's own, or of a cascade that is swept."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from helpers.tiny_runs import SECOND, make_run

from vdm_jax import configuration
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS, EvalOptions, Metric, Protocol, evaluate_run
from vdm_jax.evaluation.features import Extractor, Features
from vdm_jax.runs import Run

RUN = {
  'data.num_frames': 4,
  'data.digits.bounce': False,
  'data.digits.clip_frames': 12,
  'sampling.num_steps': 2,
  'sampling.conditioning': 'redraw',
}
LONG = Protocol(
  name='long',
  source='a test',
  task='unconditional',
  metrics=(Metric('fvd', 'frechet', 'i3d', 'logits'),),
  references=('test',),
  height=16,
  width=16,
  channels=1,
  num_frames=10,
  model_frames=4,
  overlap=2,
  num_samples=4,
  num_references=4,
)


class Networks:
  """Replaces the feature networks: means of pixels, and the clips that it was shown."""

  def __init__(self):
    self.seen = []

  def load(self, name, path, **options):
    def apply(videos):
      self.seen.append(videos)
      rows = videos.astype(np.float32).mean((1, 2, 3) if name == 'i3d' else (2, 3)) / 64
      return Features(rows, rows)

    return Extractor(name, 'random:0 of a test', 1, None, apply)


@pytest.fixture
def networks(monkeypatch):
  found = Networks()
  monkeypatch.setattr('vdm_jax.evaluation.feature_files.features.load', found.load)
  return found


def evaluate(workdir, protocol, **options):
  config = configuration.read(workdir / 'config.json')
  with mock.patch.dict(PROTOCOLS, {protocol.name: protocol}):
    chosen = {'protocol': protocol.name, 'features': 'random', 'batch_size': 4} | options
    return evaluate_run(config, Run(workdir), EvalOptions(**chosen))


def test_long_samples_extend_those_of_the_model_block_by_block(tmp_path, networks):
  workdir = make_run(tmp_path / 'run', RUN)
  short = LONG._replace(name='short', num_frames=4, model_frames=0, overlap=0)
  evaluate(workdir, short)
  _, plain = networks.seen
  networks.seen.clear()
  record = evaluate(workdir, LONG)
  reference, samples = networks.seen
  assert samples.shape == reference.shape == (4, 10, 16, 16, 3), 'in color for the networks'
  np.testing.assert_array_equal(samples[:, :4], plain, 'the first block is what the model samples')
  assert len({frame.tobytes() for frame in samples[0]}) == 10, 'and then other frames follow'
  assert record['counts'] == {'samples': 4, 'test': 4} and record['size'] == (10, 16, 16, 1)
  with pytest.raises(InvalidInput, match='--protocol=long measures 5 x 16 x 16 .* generates 4 x 16 x 16'):
    evaluate(workdir, LONG._replace(model_frames=5))
  own = evaluate(workdir, PROTOCOLS['own']._replace(num_samples=4, num_references=4, training_clips=4))
  assert own['size'] == (4, 16, 16, 1) and set(own['metrics']) == {'fid', 'is'}
  assert own['memorisation']['training_clips'] == 4 and own['motion']['samples'] > 0


@pytest.mark.slow  # compiles two stages
def test_a_sweep_over_the_second_stage_samples_the_first_one_once(tmp_path, networks, monkeypatch):
  first = make_run(tmp_path / 'first', RUN)
  workdir = make_run(tmp_path / 'second', RUN | SECOND | {'training.first_stage': str(first)})
  protocol = LONG._replace(name='cascade', height=32, width=32, num_frames=4, model_frames=0, overlap=0)
  plain = evaluate(workdir, protocol)
  made = []
  from vdm_jax.evaluation import measurement

  make = measurement.make_generator

  def counted(stage, *args, **options):
    generate = make(stage, *args, **options)

    def call(**given):
      made.append(stage.model.upsampling)
      return generate(**given)

    return call

  monkeypatch.setattr(measurement, 'make_generator', counted)
  monkeypatch.setattr('vdm_jax.evaluation.sweeps.AUGMENTATIONS', (0.1, 0.3))
  swept = evaluate(workdir, protocol, sweep='augmentation', out=str(tmp_path / 'swept'))
  assert made == [1, 2, 2]
  values = [record['metrics']['fvd']['test']['value'] for record in swept['records']]
  assert values[0] == plain['metrics']['fvd']['test']['value'] != values[1], 'the same as without keeping them'
