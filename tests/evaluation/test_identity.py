"""Scores are those of the run, checkpoint and clips that were named: nothing that was kept for others is used."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.tiny_runs import FVD, MEASURED, SECOND, SMALL_PROTOCOL, Networks, compiled_once, make_run
from PIL import Image

from vdm_jax import configuration, generation, jobs
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS, EvalOptions, feature_files, resumable_arrays
from vdm_jax.generation import stages
from vdm_jax.runs import Run

# A protocol that keeps samples, and one that keeps features. Equal samples give equal figures, to the last bit.
MEAN = SMALL_PROTOCOL._replace(
  name='mean',
  metrics=(),
  num_steps=(2, 3),
  objective=('mean', 'mean'),
  record_figures=('mean',),
  evaluate=lambda generate, data, **known: {
    'protocol': 'mean',
    'mean': float(generate(['a 3 moving left', 'a 4 moving up']).mean()),
  },
)
FRECHET = SMALL_PROTOCOL._replace(
  name='frechet', metrics=(FVD,), references=('test',), training_clips=0, num_samples=8, num_references=8
)
WORDS = {'data.text': 'words', 'data.vocabulary': ('a', '3', '4', 'moving', 'left', 'up'), 'data.text_length': 4}
RUN = MEASURED | WORDS


@pytest.fixture(autouse=True)
def networks(monkeypatch):
  fakes = Networks()
  monkeypatch.setattr(generation, 'make_generator', compiled_once())
  monkeypatch.setattr(feature_files, 'features', fakes)
  return fakes


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Runs `a` and `b` of one configuration and step, and `second`, a second stage."""
  folder = tmp_path_factory.mktemp('runs')
  for name, seed in (('a', 0), ('b', 1)):
    make_run(folder / name, RUN, seed=seed)
  scalars = {'model.scalars': ('augmentation_logsnr',)}
  make_run(folder / 'second', RUN | SECOND | scalars | {'training.first_stage': 'a'}, seed=2)
  return folder


def record_of(workdir, out, protocol=MEAN, changes=None, sweep=None):
  config = configuration.from_dict(Run(workdir).config)
  config.update_from_flattened_dict(changes or {})
  options = EvalOptions(protocol.name, batch_size=8, out=str(out), sweep=sweep)
  if protocol.metrics:
    options = options._replace(features='random')
  with mock.patch.dict(PROTOCOLS, {protocol.name: protocol}):
    assert jobs.evaluate(config, Run(workdir), options) == 0
  return json.loads((out / (f'{protocol.name}_{sweep}' if sweep else protocol.name)).with_suffix('.json').read_text())


def figure(record):
  return record['mean'] if 'mean' in record else record['metrics']['fvd']['test']['value']


def evaluate(*arguments, **options):
  return figure(record_of(*arguments, **options))


@pytest.mark.parametrize('protocol', [MEAN, FRECHET], ids=lambda protocol: protocol.name)
def test_two_runs_in_one_folder(runs, networks, protocol, tmp_path):
  alone = [record_of(runs / name, tmp_path / name, protocol) for name in 'ab']
  assert figure(alone[0]) != figure(alone[1])
  together = [record_of(runs / name, tmp_path / 'both', protocol) for name in 'ab']
  assert together == alone
  kept = [json.loads(path.read_text()) for path in (tmp_path / 'both').glob('*.json')]
  assert sorted(kept, key=lambda record: record['run']) == alone, 'the record of the first run is still there'
  before = len(networks.seen)
  assert record_of(runs / 'a', tmp_path / 'both', protocol) == alone[0] and len(networks.seen) == before


def test_a_run_trained_anew_in_place_to_the_same_step(runs, tmp_path):
  workdir = shutil.copytree(runs / 'a', tmp_path / 'run')
  first = evaluate(workdir, tmp_path / 'out')
  shutil.rmtree(workdir)
  shutil.copytree(runs / 'b', workdir)
  assert evaluate(workdir, tmp_path / 'out') == evaluate(runs / 'b', tmp_path / 'b') != first


def test_two_weight_files_in_one_folder(runs, tmp_path):
  for name in 'ab':
    Run(runs / name).export_weights(tmp_path / f'{name}.safetensors')
  found = [evaluate(tmp_path / f'{name}.safetensors', tmp_path / 'out') for name in 'ab']
  assert found == [evaluate(runs / name, tmp_path / name) for name in 'ab']


def test_another_first_stage_at_the_same_path(runs, tmp_path):
  for name in ('a', 'second'):
    shutil.copytree(runs / name, tmp_path / name)
  found = [evaluate(tmp_path / 'second', tmp_path / 'out')]
  config = json.loads((tmp_path / 'a/config.json').read_text())
  config['sampling']['num_steps'] = 3
  (tmp_path / 'a/config.json').write_text(json.dumps(config))
  found.append(evaluate(tmp_path / 'second', tmp_path / 'out'))
  shutil.rmtree(tmp_path / 'a')
  shutil.copytree(runs / 'b', tmp_path / 'a')
  record = record_of(tmp_path / 'second', tmp_path / 'out')
  assert len({*found, figure(record)}) == 3
  named = [stage['hash'] for stage in record['stages']]
  assert named == [Run(runs / name).identity['hash'] for name in ('b', 'second')]


def write_clips(folder: Path, seed: int) -> None:
  """Ten clips of equal size and time; a seed decides their pixels."""
  folder.mkdir(exist_ok=True)
  for number in range(10):
    pixels = np.random.default_rng((seed, number)).integers(0, 256, (6, 16, 16, 3))
    np.save(folder / f'{number}.npy', (pixels * (number + 1) // 10).astype(np.uint8))
    os.utime(folder / f'{number}.npy', ns=(10**18, 10**18))


@pytest.mark.parametrize('kind', ['folder', 'array', 'images'])
def test_reference_clips_replaced_in_place(runs, kind, tmp_path):
  changes = {'data.name': 'folder', 'data.path': str(tmp_path / 'clips'), 'data.frame_rate': 8.0}
  changes['data.train_on_all'] = True
  train = FRECHET._replace(references=('train',))
  found = []
  for seed in (0, 1):
    write_clips(tmp_path / 'clips', seed)
    if kind == 'array':
      clips = [np.load(path) for path in sorted((tmp_path / 'clips').iterdir())]
      np.save(tmp_path / 'clips.npy', np.stack(clips))
      os.utime(tmp_path / 'clips.npy', ns=(10**18, 10**18))
      changes |= {'data.name': 'array', 'data.path': str(tmp_path / 'clips.npy')}
    elif kind == 'images':
      for path in sorted((tmp_path / 'clips').glob('*.npy')):
        (tmp_path / 'images' / path.stem).mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(np.load(path)):
          Image.fromarray(frame).save(tmp_path / 'images' / path.stem / f'{number}.png')
      changes |= {'data.path': str(tmp_path / 'images')}
    record = record_of(runs / 'a', tmp_path / 'out', train, changes)
    found.append((record['references']['train'], record['metrics']['fvd']['train']['value']))
  assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_samples_of_other_code_are_made_again(runs, monkeypatch, tmp_path):
  evaluate(runs / 'a', tmp_path)
  monkeypatch.setattr(stages, 'code_hash', lambda *parts: 'other')
  evaluate(runs / 'a', tmp_path)
  assert len(list((tmp_path / 'mean').iterdir())) == 2


def test_the_code_of_a_sample_is_all_that_makes_it():
  """What sampling imports beside CODE opens runs, decodes given videos (which have checksums) and writes files."""
  others = {'checkpoints', 'configuration', 'data', 'errors', 'evaluation', 'first_stages', 'jobs', 'names', 'pages'}
  others |= {'partitioning', 'plots', 'pretrained', 'runs', 'runtime', 'types', 'video'}
  package = Path(generation.__file__).parents[1]
  files = [path for unit in stages.CODE for path in [*(package / unit).rglob('*.py'), package / f'{unit}.py']]
  text = '\n'.join(path.read_text() for path in files if path.is_file())
  found = set(re.findall(r'^ *from vdm_jax\.(\w+)', text, re.MULTILINE))
  for names in re.findall(r'^ *from vdm_jax import ([^(\n]+|\([^)]+\))', text, re.MULTILINE):
    found |= set(re.findall(r'(\w+)(?: as \w+)?[,\s)]', names + ','))
  assert {'models', 'text', 'inputs'} <= found and found <= {*stages.CODE, *others}


def test_a_run_that_was_moved_is_the_same(runs, networks, tmp_path):
  first = evaluate(runs / 'a', tmp_path / 'out', FRECHET)
  before = len(networks.seen)
  assert evaluate(shutil.copytree(runs / 'a', tmp_path / 'moved'), tmp_path / 'out', FRECHET) == first
  assert len(networks.seen) == before


def test_the_table_and_plot_of_a_sweep_are_kept_with_its_record(runs, tmp_path):
  for name in 'ab':
    record_of(runs / name, tmp_path, sweep='steps')
  stems = {path.stem for path in tmp_path.iterdir() if path.is_file()}
  assert len(stems) == 2 and 'mean_steps' in stems
  for stem in stems:
    record = json.loads((tmp_path / f'{stem}.json').read_text())
    values = [float(row.split(',')[4]) for row in (tmp_path / f'{stem}.csv').read_text().splitlines()[1:]]
    assert values == [part['mean'] for part in record['records']] and (tmp_path / f'{stem}.png').exists()


def test_processes_that_see_different_weights_are_refused(monkeypatch, tmp_path):
  monkeypatch.setattr(
    resumable_arrays.runtime, 'exchange', lambda name, value: [value, value | {'weights': 'of a newer checkpoint'}]
  )
  with pytest.raises(InvalidInput, match='processes 0, 1 .* differ in weights: .* --checkpoint=STEP'):
    resumable_arrays.fill(tmp_path, 'samples', {'weights': 'w', 'seed': 0}, 2, lambda number: {}, batch_size=1)
  assert not list(tmp_path.iterdir())
