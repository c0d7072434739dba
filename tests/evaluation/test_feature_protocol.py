"""Measuring a tiny run by small protocols, with feature networks that compute a few means of pixels."""

from __future__ import annotations

import csv
import json
import shutil
from unittest import mock

import numpy as np
import pytest
from helpers.tiny_runs import FVD, MEASURED, OPTIONS, SMALL_PROTOCOL, WEIGHTS, Networks, compiled_once, make_run

from vdm_jax import configuration, data, generation, jobs
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS, Figure, clip_subsets, feature_files, sweeps
from vdm_jax.evaluation.conditions import make_conditions
from vdm_jax.evaluation.resumable_arrays import fill
from vdm_jax.runs import Run


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('run') / 'run', MEASURED)


@pytest.fixture
def networks(monkeypatch):
  fakes = Networks()
  monkeypatch.setattr(generation, 'make_generator', compiled_once())
  monkeypatch.setattr(feature_files, 'features', fakes)
  return fakes


def evaluate(workdir, protocol=SMALL_PROTOCOL, *, changes=None, **options):
  config = configuration.read(workdir / 'config.json')
  config.update_from_flattened_dict(changes or {})
  with mock.patch.dict(PROTOCOLS, {protocol.name: protocol}):
    return jobs.evaluate(config, Run(workdir), OPTIONS._replace(protocol=protocol.name, **options))


def test_a_killed_measurement_resumes_to_the_same_record_bit_for_bit(run, networks, tmp_path, capsys):
  whole, killed = (shutil.copytree(run, tmp_path / name) for name in ('whole', 'killed'))
  evaluate(whole)
  calls = len(networks.seen)
  printed = json.loads(capsys.readouterr().out)
  networks.seen.clear()
  networks.stop = calls - 4  # two batches of samples are missing
  with pytest.raises(KeyboardInterrupt):
    evaluate(killed)
  assert not (killed / 'evaluation/small.json').exists()
  networks.stop = None
  evaluate(killed)
  assert len(networks.seen) == calls, 'nothing is measured twice'
  record, resumed = ((folder / 'evaluation/small.json').read_text() for folder in (whole, killed))
  assert resumed == record.replace(str(whole), str(killed)) and json.loads(record) == printed
  assert printed['counts'] == {'samples': 21, 'train': 26, 'test': 26}
  assert printed['weights'] == {'i3d': WEIGHTS, 'inception': WEIGHTS} and printed['step'] == 3
  assert set(printed['metrics']['fvd']) == {'train', 'test'}
  assert set(printed['metrics']['is']) == {'splits_1', 'splits_10'}
  assert printed['memorisation']['training_clips'] == 26 and printed['diversity']['k'] == 3
  networks.seen.clear()
  evaluate(killed, changes={'seed': 1})
  assert len(networks.seen) == calls, 'another seed is another job, in another folder'
  assert len(list(killed.glob('evaluation/small_*.json'))) == 1, 'the previous record is kept'


def test_predictions_begin_with_frames_of_the_reference_and_real_clips_are_closer(run, networks, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  predict = SMALL_PROTOCOL._replace(
    name='predict',
    task='prediction',
    given_frames=2,
    metrics=(FVD,),
    references=('test',),
    training_clips=0,
    num_samples=16,
    num_references=8,
  )
  evaluate(workdir, predict)
  reference, *samples = networks.seen
  assert len(samples) == 2
  for made in samples:  # 16 samples that continue each of the 8 clips twice
    np.testing.assert_array_equal(made[:, :2], reference[:, :2])
    assert (made[:, 2:] != reference[:, 2:]).mean() > 0.5
  assert (samples[0][:, 2:] != samples[1][:, 2:]).mean() > 0.1, 'each from other noise'
  model = json.loads((workdir / 'evaluation/predict.json').read_text())
  networks.seen.clear()
  evaluate(workdir, predict, real_vs_real=True)
  real = json.loads((workdir / 'evaluation/predict_real.json').read_text())
  assert len(networks.seen) == 2, 'the reference exists already'
  assert real['real_vs_real'] and real['references'] == model['references'] and 'step' not in real
  assert real['metrics']['fvd']['test']['value'] < model['metrics']['fvd']['test']['value']


def test_a_sweep_measures_each_value_with_one_reference_and_writes_a_table(run, networks, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  published = (Figure('fvd', 'test', 5.0, None, 'a table', (('sampling.num_steps', 3), ('data.frame_skip', 1))),)
  swept = SMALL_PROTOCOL._replace(
    name='swept',
    metrics=(FVD,),
    references=('test',),
    training_clips=0,
    num_steps=(2, 3),
    sweep_samples=8,
    published=published,
  )
  evaluate(workdir, swept, sweep='steps')
  assert len(networks.seen) == 1 + 2
  found = json.loads((workdir / 'evaluation/swept_steps.json').read_text())
  assert [record['sampling']['num_steps'] for record in found['records']] == [2, 3]
  values = [record['metrics']['fvd']['test']['value'] for record in found['records']]
  assert found['sweep'] == 'num_steps' and found['best'] == (2, 3)[int(np.argmin(values))] and values[0] != values[1]
  with open(workdir / 'evaluation/swept_steps.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert [(row['series'], row['num_steps'], row['published']) for row in rows] == [
    ('ancestral', '2', ''),
    ('ancestral', '3', '5.0'),
  ]
  assert [float(row['value']) for row in rows] == values
  assert (workdir / 'evaluation/swept_steps.png').stat().st_size > 1000


@pytest.mark.parametrize(
  ('changes', 'options', 'message'),
  [
    ({}, {'features': None}, r'--protocol=small .* --features=DIR .*i3d_torchscript.pt.*inception.*--features=random'),
    ({'height': 64, 'num_frames': 16}, {}, '--protocol=small measures 16 x 64 x 16 x 3 .* 4 x 16 x 16 x 3'),
    ({'task': 'captions'}, {}, "--protocol=small .* data.text='none'"),
    ({}, {'prompt_file': 'prompts.txt'}, '--prompt_file .* --protocol=small'),
    ({'num_references': 2**21}, {}, '--protocol=small needs 2097152 clips, .* 1048576.*--limit=1048576'),
    ({}, {'limit': 1}, '--limit=1 .* fvd, which needs 2 '),
    ({}, {'sweep': 'guidance'}, '--sweep=guidance .* unconditional'),
    ({}, {'sweep': 'steps'}, '--sweep=steps .* --protocol=small'),
    ({}, {'sweep': 'steps', 'real_vs_real': True}, '--sweep and --real_vs_real'),
    ({}, {'protocol': 'digits'}, '--features .* --protocol=digits'),
    ({}, {'protocol': 'digits', 'features': None, 'real_vs_real': True}, '--real_vs_real .* --protocol=digits'),
    ({}, {'protocol': 'digits', 'features': None, 'limit': 3}, '--limit .* --protocol=digits'),
    ({'metrics': (FVD._replace(kind='frechett'),)}, {}, "metric kind='frechett' .* 'frechet'"),
    ({'metrics': (FVD._replace(network=None),)}, {}, "metric 'fvd' of kind 'frechet': give it a feature network"),
  ],
)
def test_invalid_requests_are_refused_before_anything_is_sampled(run, networks, changes, options, message):
  config = configuration.read(run / 'config.json')
  small = mock.patch.dict(PROTOCOLS, {'small': SMALL_PROTOCOL._replace(**changes)})
  with small, pytest.raises((InvalidInput, ValueError), match=message):
    jobs.evaluate(config, Run(run), OPTIONS._replace(**options))
  assert networks.seen == [] and not (run / 'evaluation/small').exists()


def test_missing_weight_files_are_listed(run, networks, tmp_path):
  (tmp_path / 'i3d_torchscript.pt').touch()
  with pytest.raises(InvalidInput, match=f'--features={tmp_path} .*: pt_inception-.*pth or inception-.*pt') as error:
    evaluate(run, features=str(tmp_path))
  assert 'i3d' not in str(error.value)
  assert networks.seen == [] and not (run / 'evaluation/small').exists()


def test_missing_data_are_named(run, networks, tmp_path):
  changes = {'data.name': 'folder', 'data.path': str(tmp_path / 'nowhere')}
  with pytest.raises(InvalidInput, match=f"--protocol=small .*data.path='{tmp_path}/nowhere'.*--config.data.path=DIR"):
    evaluate(run, changes=changes)


def clips(split='test'):
  config = configuration.default()
  config.data.update(name='digits', num_frames=4, height=16, width=16)
  config.data.digits.update(clip_frames=8)
  return data.ExampleClips(config.data, split, seed=0, num_frames=4), config


def test_subsets_with_and_without_replacement():
  source, config = clips()
  few = type('Few', (), {'__len__': lambda self: 40, '__getattr__': lambda self, name: getattr(source, name)})()
  once = clip_subsets.choose_clips(SMALL_PROTOCOL, few, 40, seed=(0, 0))
  assert sorted(once.indices) == list(range(40)) and list(once.indices) != list(range(40))
  again = clip_subsets.choose_clips(SMALL_PROTOCOL._replace(replacement=True), few, 40, seed=(0, 0))
  assert len(set(again.indices)) < 40
  with pytest.raises(InvalidInput, match='needs 41 clips, .* has 40'):
    clip_subsets.choose_clips(SMALL_PROTOCOL, few, 41, seed=(0, 0))
  cond = make_conditions(
    SMALL_PROTOCOL._replace(task='prediction', replacement=True), config, again, 40, seed=0, prompt_file=None
  )
  assert list(cond.given.indices) != list(again.indices), 'given frames are of other clips'
  same = make_conditions(SMALL_PROTOCOL._replace(task='prediction'), config, once, 60, seed=0, prompt_file=None)
  np.testing.assert_array_equal(same.given.videos([3, 43]), once.videos([3, 3]))
  assert list(same.group) == [*range(40), *range(20)]
  real = clip_subsets.choose_real_samples(SMALL_PROTOCOL, few, 15, 100, seed=0)
  reference = clip_subsets.choose_clips(SMALL_PROTOCOL, few, 15, seed=(0, 0))
  assert len(real.indices) == 25 and not set(real.indices) & set(reference.indices)


def test_windows_are_random_or_the_first():
  source, _ = clips()
  first = clip_subsets.choose_clips(SMALL_PROTOCOL._replace(window='first'), source, 6, seed=(0, 0))
  shown = [source.window(int(clip), None).video for clip in first.indices]
  np.testing.assert_array_equal(first.videos(range(6)), shown)
  drawn = clip_subsets.choose_clips(SMALL_PROTOCOL, source, 6, seed=(0, 0))
  np.testing.assert_array_equal(drawn.videos([4]), drawn.videos(range(6))[4:5])
  assert (drawn.videos(range(6)) != np.stack(shown)).any()


def test_classes_become_prompts_by_name_with_their_frequency_in_the_data():
  """JumpRope is before JumpingJack in sorted folders, and after it in the data set's list."""
  _, config = clips()
  config.data.text = 'words'
  names = ('Archery', 'JumpRope', 'JumpingJack')
  labels = [2, 1, 1, 0, 1, 1]
  source = type('Classes', (), {'class_names': names, 'describe': lambda self, clip: ('', labels[clip])})()
  reference = clip_subsets.ClipSubset(source, np.array([5, 0, 1, 2, 3, 4]), np.arange(6), None)
  snap = PROTOCOLS['snap-ucf101-10k']
  cond = make_conditions(snap, config, reference, 8, seed=0, prompt_file=None)
  rope, jack = 'a person skipping with jump rope', 'a young person doing jumping jacks'
  bow = 'a person shooting with a bow'
  assert cond.prompts == [rope, jack, rope, rope, bow, rope, rope, jack]
  assert cond.labels is None and len(set(cond.group)) == 3
  config.data.labels = True
  assert make_conditions(snap, config, reference, 6, seed=0, prompt_file=None).labels == [1, 2, 1, 1, 0, 1]
  config.data.labels, source.class_names = False, ('Archery', 'Skating', 'Surfing')
  with pytest.raises(InvalidInput, match="no prompt for the class 'Skating'"):
    make_conditions(snap, config, reference, 6, seed=0, prompt_file=None)


def test_prompts_that_are_not_shipped_are_read_from_a_file(tmp_path):
  source, config = clips()
  config.data.text = 'words'
  snap = PROTOCOLS['snap-msrvtt-59800']
  reference = clip_subsets.choose_clips(snap, source, 3, seed=(0, 0))
  with pytest.raises(InvalidInput, match='59800 prompts .* --prompt_file=FILE'):
    make_conditions(snap, config, reference, 5, seed=0, prompt_file=None)
  (tmp_path / 'prompts.txt').write_text('a\nb\nc\nd\n')
  with pytest.raises(InvalidInput, match='prompts.txt has 4 prompts, but --protocol=snap-msrvtt-59800 needs 5'):
    make_conditions(snap, config, reference, 5, seed=0, prompt_file=str(tmp_path / 'prompts.txt'))
  cond = make_conditions(snap, config, reference, 4, seed=0, prompt_file=str(tmp_path / 'prompts.txt'))
  assert cond.prompts == ['a', 'b', 'c', 'd']


def test_sweeps_change_what_the_papers_vary_and_reset_settings_without_effect():
  config = configuration.default()
  config.data.text = 'words'
  config.sampling.update(
    step='ancestral', gamma=0.3, langevin_delta=0.1, threshold='dynamic', guidance_low=1.0, guidance_start=0.25
  )
  snap = PROTOCOLS['snap-internal-50k']
  guidance = sweeps.points(snap, 'guidance', config)
  assert [point.value for point in guidance] == [0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]  # Snap Fig. 5
  plain = {'gamma': 0.0, 'churn': 0.0, 'churn_noise': 1.0, 'churn_min': 0.0, 'churn_max': 0.0, 'langevin_delta': 0.0}
  plain |= {'guidance_low': 0.0, 'guidance_start': 0.0, 'threshold': 'clip'}  # not the remedies for what Fig. 5 shows
  assert guidance[3].changes == plain | {'guidance_weight': 1.5, 'step': 'heun', 'num_steps': 40}
  assert [point.value for point in sweeps.points(PROTOCOLS['vdm-t2v-4096'], 'guidance', config)] == [0, 1, 4]
  steps = sweeps.points(snap, 'steps', config)
  assert {point.series for point in steps} == {'ddim', 'heun', 'ancestral'}
  for name in ('heun', 'ancestral', 'ddim'):
    found = [point.changes for point in steps if point.series == name]
    assert found == [plain | {'step': name, 'num_steps': n} for n in (8, 16, 32, 64, 128, 256)], 'one setting varies'
  first, *_ = sweeps.points(PROTOCOLS['digits'], 'steps', config)
  assert first.changes == {'step': 'ancestral', 'num_steps': 8}


def test_processes_divide_the_batches_and_read_them_in_order(tmp_path, monkeypatch):
  made: list[int] = []

  def make(number):
    made.append(number)
    return {'x': np.full(2, number)}

  monkeypatch.setattr('vdm_jax.evaluation.resumable_arrays.multihost_utils.sync_global_devices', lambda name: None)
  monkeypatch.setattr('vdm_jax.evaluation.resumable_arrays.jax.process_count', lambda: 2)
  for process in (1, 0):
    monkeypatch.setattr('vdm_jax.evaluation.resumable_arrays.jax.process_index', lambda process=process: process)
    batches = fill(tmp_path, 'work', {'a': 1}, 9, make, batch_size=2)
  assert made == [1, 3, 0, 2, 4]
  np.testing.assert_array_equal(np.concatenate(list(batches.read('x'))), np.repeat(np.arange(5), 2))
  (batches.folder / '000002.npz').write_bytes(b'broken')
  with pytest.raises(InvalidInput, match='000002.npz cannot be read'):
    list(batches.read('x'))


def test_samples_without_a_threshold_are_refused_before_sampling(run, networks):
  with pytest.raises(InvalidInput, match="sampling.threshold='none'"):
    evaluate(run, changes={'sampling.threshold': 'none'})
  assert networks.seen == []


def test_the_number_of_frames_that_networks_take_is_checked(run, networks, monkeypatch):
  load = networks.load
  monkeypatch.setattr(networks, 'load', lambda *args, **options: load(*args, **options)._replace(min_frames=9))
  with pytest.raises(InvalidInput, match='i3d takes 9 to 4 frames, but the protocol has 4'):
    evaluate(run)
