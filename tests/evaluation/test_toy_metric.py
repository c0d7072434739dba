"""A metric, a feature network and protocols written from docs/extending alone, measured, resumed and swept."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.tiny_runs import make_run

from vdm_jax import configuration, jobs
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import METRICS, PROTOCOLS, EvalOptions, Metric, MetricKind, Protocol, compare
from vdm_jax.evaluation.features import FEATURE_NETWORKS, FeatureNetwork, Network
from vdm_jax.runs import Run

GUIDES = Path(__file__).resolve().parents[2] / 'docs' / 'extending'
RUN = {
  'data.num_frames': 4,
  'data.channels': 3,
  'data.digits.bounce': False,
  'data.digits.clip_frames': 8,
  'model.scalars': (),
  'sampling.num_steps': 2,
}


@pytest.mark.parametrize('guide', ['metric.md', 'feature_network.md', 'protocol.md'])
def test_the_code_of_a_guide_runs(guide):
  blocks = re.findall(r'```python\n(.*?)```', (GUIDES / guide).read_text(), re.DOTALL)
  assert blocks
  tables = [mock.patch.dict(table) for table in (METRICS, PROTOCOLS, FEATURE_NETWORKS)]
  with tables[0], tables[1], tables[2]:
    exec('\n'.join(blocks), {})


class Redness:
  """A metric of videos: the mean red minus the mean blue value of the samples. Stops at a call if told to."""

  def __init__(self):
    self.calls, self.stop = 0, None

  def from_videos(self, videos):
    if self.calls == self.stop:
      raise KeyboardInterrupt
    self.calls += 1
    return videos[..., 0].mean((1, 2, 3)) - videos[..., 2].mean((1, 2, 3))

  def compute(self, inputs):
    values = np.concatenate(list(inputs.samples()))
    assert len(values) == inputs.count
    return {'mean': {'value': float(values.mean()), 'spread': float(values.std(ddof=1) / math.sqrt(len(values)))}}


def nearest_reference(inputs):
  """A metric of features: the mean distance of samples to their nearest reference, for each split."""
  samples = np.concatenate(list(inputs.samples()))
  found = {}
  for split, stream in inputs.references.items():
    real = np.concatenate(list(stream()))
    distance = np.linalg.norm(samples[:, None] - real, axis=-1).min(1)
    found[split] = {'value': float(distance.mean()), 'spread': None, 'farthest': float(distance.max())}
  return found


def corner_pixels(params, clips):
  """A feature network: the corner pixel of each frame, times a constant."""
  return params['scale'] * clips[:, :, 0, 0].reshape(len(clips), -1).astype(np.float32), None


CORNERS = FeatureNetwork(
  network=lambda width: Network('corners', corner_pixels, frames=(2, 8), of_images=False, at_once=4),
  load_params=lambda path, width: ({'scale': np.load(path)}, 'corners of a test'),
  random_params=lambda seed, width: {'scale': np.float32(1 / (1 + seed))},
  files=('corners-*.npy',),
  download='corners-1.npy, which this test makes',
)
TOY = Protocol(
  name='toy',
  source='a test',
  task='unconditional',
  metrics=(Metric('redness', 'redness'), Metric('nearest', 'nearest', 'corners')),
  references=('train', 'test'),
  height=16,
  width=16,
  num_frames=4,
  num_samples=20,
  num_references=12,
  training_clips=12,
  num_steps=(2, 3),
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('run') / 'run', RUN)


@pytest.fixture
def redness(monkeypatch):
  metric = Redness()
  entry = MetricKind(metric.compute, lower_is_better=False, from_videos=metric.from_videos)
  monkeypatch.setitem(METRICS, 'redness', entry)
  monkeypatch.setitem(METRICS, 'nearest', MetricKind(nearest_reference, lower_is_better=True))
  monkeypatch.setitem(FEATURE_NETWORKS, 'corners', CORNERS)
  monkeypatch.setitem(PROTOCOLS, 'toy', TOY)
  monkeypatch.setitem(PROTOCOLS, 'toy-videos', TOY._replace(name='toy-videos', metrics=TOY.metrics[:1]))
  return metric


def evaluate(workdir, name, **options):
  """What `--mode=evaluate` does once its flags are read; returns the record on disk."""
  config = configuration.read(workdir / 'config.json')
  assert jobs.evaluate(config, Run(workdir), EvalOptions(name, batch_size=8, **options)) == 0
  sweep = f'_{options["sweep"]}' if 'sweep' in options else ''
  return json.loads((workdir / f'evaluation/{name}{sweep}.json').read_text())


def test_a_toy_metric_and_network_are_measured_and_resumed(run, redness, tmp_path, capsys):
  whole, killed = (shutil.copytree(run, tmp_path / name) for name in ('whole', 'killed'))
  record = evaluate(whole, 'toy', features='random')
  assert json.loads(capsys.readouterr().out) == record
  assert set(record['metrics']['redness']) == {'mean'} and record['metrics']['redness']['mean']['spread'] > 0
  assert set(record['metrics']['nearest']) == {'train', 'test'} and record['metrics']['nearest']['test']['farthest'] > 0
  assert record['weights'] == {'corners': 'random:0'} and record['counts'] == {'samples': 20, 'train': 12, 'test': 12}
  assert record['features'] == 'corners-clip-pool' and record['memorisation']['training_clips'] == 12
  calls, redness.calls = redness.calls, 0
  assert calls == 3 + 2 + 2, 'batches of samples and of two splits'
  redness.stop = 5
  with pytest.raises(KeyboardInterrupt):
    evaluate(killed, 'toy', features='random')
  redness.stop = None
  assert evaluate(killed, 'toy', features='random') == json.loads(json.dumps(record).replace(str(whole), str(killed)))
  assert redness.calls == calls, 'nothing is measured twice'
  assert compare(record, record)['nearest']['train']['difference'] == 0


def test_weights_of_a_toy_network_are_found_by_their_pattern(run, redness, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  with pytest.raises(InvalidInput, match=r'corners: corners-\*.npy'):
    evaluate(workdir, 'toy', features=str(tmp_path))
  np.save(tmp_path / 'corners-1.npy', np.float32(3))
  record = evaluate(workdir, 'toy', features=str(tmp_path), limit=8)
  assert record['weights'] == {'corners': 'corners of a test'} and record['counts']['samples'] == 8


def test_a_protocol_without_feature_networks_needs_no_weights(run, redness, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  with pytest.raises(InvalidInput, match='--features .* --protocol=toy-videos'):
    evaluate(workdir, 'toy-videos', features='random')
  record = evaluate(workdir, 'toy-videos')
  assert record['metrics']['redness']['mean']['value'] != 0 and record['weights'] == {}
  assert record['features'] is record['diversity'] is record['memorisation'] is None
  assert record['motion']['samples'] > 0


def test_a_sweep_maximizes_a_metric_of_which_higher_is_better(run, redness, tmp_path):
  record = evaluate(shutil.copytree(run, tmp_path / 'run'), 'toy-videos', sweep='steps')
  values = [point['metrics']['redness']['mean']['value'] for point in record['records']]
  assert values[0] != values[1] and record['best'] == (2, 3)[int(np.argmax(values))]


def test_a_protocol_with_a_function_is_measured_swept_and_resumed(tmp_path, monkeypatch):
  words = {'data.text': 'words', 'data.text_length': 8, 'data.vocabulary': ('a', '3', 'moving', 'left')}
  workdir = make_run(tmp_path / 'run', RUN | words)
  seen = []

  def score_spread(generate, data, *, seed, num_trained):
    seen.append(generate(['a 3 moving left'] * 9))
    return {'protocol': 'spread', 'num_videos': 9, 'spread': float(seen[-1].std()), 'trained': num_trained}

  protocol = TOY._replace(
    name='spread', metrics=(), evaluate=score_spread, record_figures=('spread',), objective=('spread', 'spread')
  )
  monkeypatch.setitem(PROTOCOLS, 'spread', protocol)
  record = evaluate(workdir, 'spread')
  assert record['spread'] > 0 and record['trained'] == 3 * 128 and record['step'] == 3
  assert compare(record, record)['spread']['spread']['difference'] == 0
  files = {path: path.stat().st_mtime_ns for path in workdir.glob('evaluation/spread/*/*.npz')}
  assert len(files) == 2 and evaluate(workdir, 'spread') == record
  np.testing.assert_array_equal(seen[0], seen[1])
  sweep = evaluate(workdir, 'spread', sweep='steps')
  values = [point['spread'] for point in sweep['records']]
  assert values[0] == record['spread'] != values[1] and sweep['best'] == (2, 3)[int(np.argmin(values))]
  assert files.items() <= {p: p.stat().st_mtime_ns for p in workdir.glob('evaluation/spread/*/*.npz')}.items()
