"""Measuring a tiny run by small protocols, with feature networks that are a few means of pixels."""

from __future__ import annotations

import csv
import functools
import json
import shutil

import numpy as np
import pytest
from helpers.tiny_runs import make_run

from vdm_jax import configuration, data, generation, jobs
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS, Figure, Metric, Protocol, clip_subsets, feature_files, sweeps
from vdm_jax.evaluation.features import Extractor, Features
from vdm_jax.evaluation.resumable_arrays import fill
from vdm_jax.runs import Run

RUN = {
  'data.num_frames': 4,
  'data.channels': 3,
  'data.digits.bounce': False,
  'data.digits.clip_frames': 8,
  'model.scalars': (),
  'sampling.num_steps': 2,
  'sampling.conditioning': 'replacement',
}
FVD, SCORE = Metric('fvd', 'frechet', 'i3d', 'logits'), Metric('is', 'inception', 'i3d', 'logits')
SMALL = Protocol(
  name='small',
  source='a test',
  task='unconditional',
  metrics=(FVD, SCORE, Metric('fid', 'frechet', 'inception', frames='each')),
  references=('train', 'test'),
  height=16,
  width=16,
  num_frames=4,
  num_samples=21,
  num_references=26,
  training_clips=26,
)
ASKED = jobs.EvalOptions(protocol='small', features='random', batch_size=8)
WEIGHTS = 'random:0 of a test'


class Networks:
  """Stands in for `vdm_jax.evaluation.features`: a few means of pixels, and what they were asked."""

  def __init__(self):
    self.seen: list[np.ndarray] = []
    self.stop: int | None = None  # raises KeyboardInterrupt in place of this call

  def load(self, name, path, **options):
    def apply(videos: np.ndarray) -> Features:
      if len(self.seen) == self.stop:
        raise KeyboardInterrupt
      self.seen.append(videos)
      n, t = videos.shape[:2]
      cells = videos.reshape(n, t, 2, 8, 2, 8, 3).mean((3, 5)).reshape(n, t, 12)[..., :3].astype(np.float32) / 64
      rows = cells if name == 'inception' else cells.reshape(n, -1)[:, -5:]
      return Features(rows, rows)

    return Extractor(name, WEIGHTS, 1, None, apply)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('run') / 'run', RUN)


@functools.cache
def compiled_once():
  """`make_generator` that makes the same sampler once."""
  make, made = generation.make_generator, {}

  def make_generator(model, sampling, **options):
    key = json.dumps([model.config, sampling, str(options)], sort_keys=True)
    return made[key] if key in made else made.setdefault(key, make(model, sampling, **options))

  return make_generator


@pytest.fixture
def networks(monkeypatch):
  fakes = Networks()
  monkeypatch.setattr(generation, 'make_generator', compiled_once())
  monkeypatch.setattr(feature_files, 'features', fakes)
  return fakes


def evaluate(workdir, protocol=SMALL, *, changes=None, **asked):
  config = configuration.read(workdir / 'config.json')
  config.update_from_flattened_dict(changes or {})
  return jobs.evaluate(config, Run(workdir), ASKED._replace(**asked), protocol)


def refusal(workdir, protocol=SMALL, **asked) -> str:
  with pytest.raises(InvalidInput) as error:
    evaluate(workdir, protocol, **asked)
  return str(error.value)


def test_a_killed_measurement_goes_on_to_the_same_record_bit_for_bit(run, networks, tmp_path, capsys):
  whole, killed = (shutil.copytree(run, tmp_path / name) for name in ('whole', 'killed'))
  evaluate(whole)
  calls = len(networks.seen)
  printed = json.loads(capsys.readouterr().out)
  networks.seen.clear()
  networks.stop = calls - 4  # two batches of samples are not measured yet
  with pytest.raises(KeyboardInterrupt):
    evaluate(killed)
  assert not (killed / 'evaluation/small.json').exists()
  networks.stop = None
  evaluate(killed)
  assert len(networks.seen) == calls, 'nothing was measured twice'
  record, resumed = ((folder / 'evaluation/small.json').read_text() for folder in (whole, killed))
  assert resumed == record.replace(str(whole), str(killed)) and json.loads(record) == printed
  assert printed['counts'] == {'samples': 21, 'train': 26, 'test': 26}
  assert printed['weights'] == {'i3d': WEIGHTS, 'inception': WEIGHTS} and printed['step'] == 3
  assert set(printed['metrics']['fvd']) == {'train', 'test'}
  assert set(printed['metrics']['is']) == {'splits_1', 'splits_10'}
  assert printed['memorisation']['training_clips'] == 26 and printed['diversity']['k'] == 3
  networks.seen.clear()
  evaluate(killed, changes={'seed': 1})
  assert len(networks.seen) == calls, 'another seed is another job, in a folder of its own'
  assert len(list(killed.glob('evaluation/small_*.json'))) == 1, 'the record before is kept'


def test_predictions_begin_with_frames_of_the_reference_and_real_clips_are_a_floor(run, networks, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  predict = SMALL._replace(
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
  assert (samples[0][:, 2:] != samples[1][:, 2:]).mean() > 0.1, 'each from noise of its own'
  model = json.loads((workdir / 'evaluation/predict.json').read_text())
  networks.seen.clear()
  evaluate(workdir, predict, real_vs_real=True)
  floor = json.loads((workdir / 'evaluation/predict_real.json').read_text())
  assert len(networks.seen) == 2, 'the reference is there already'
  assert floor['real_vs_real'] and floor['references'] == model['references'] and 'step' not in floor
  assert floor['metrics']['fvd']['test']['value'] < model['metrics']['fvd']['test']['value']


def test_a_sweep_measures_each_value_against_one_reference_and_tabulates_it(run, networks, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  published = (Figure('fvd', 'test', 5.0, None, 'a table', (('sampling.num_steps', 3), ('data.frame_skip', 1))),)
  swept = SMALL._replace(
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


def test_what_is_missing_is_said_before_anything_is_sampled(run, networks, tmp_path):
  assert refusal(run, features=None) == (
    '--protocol=small compares features: name the folder of the weight files with --features=DIR (i3d: '
    'i3d_torchscript.pt or i3d_pretrained_400.pt; inception: pt_inception-2015-12-05-*.pth or '
    'inception-2015-12-05.pt). --features=random tries the command with networks of random weights, whose figures mean '
    'nothing.'
  )
  (tmp_path / 'i3d_torchscript.pt').touch()
  assert refusal(run, features=str(tmp_path)) == (
    f'--features={tmp_path} lacks weight files that --protocol=small needs. inception: '
    'pt_inception-2015-12-05-*.pth or inception-2015-12-05.pt.'
  )
  assert refusal(run, SMALL._replace(height=64, num_frames=16)) == (
    '--protocol=small measures 16 x 64 x 16 x 3 (frames, height, width, channels), but this run makes 4 x 16 x 16 x 3, '
    'and nothing is resized: measure a run of that size.'
  )
  assert refusal(run, SMALL._replace(task='captions')) == (
    "--protocol=small measures text to video, but this run has data.text='none'."
  )
  assert refusal(run, prompt_file='prompts.txt') == (
    '--prompt_file is not read by --protocol=small, which has its own prompts: leave it out.'
  )
  assert refusal(run, SMALL._replace(num_references=2**21)).startswith(
    '--protocol=small needs 2097152 clips, but the data have 1048576 in this split: '
  )
  assert refusal(run, sweep='guidance').startswith('--sweep=guidance is for a model that is told a text or a class')
  assert refusal(run, sweep='steps') == '--sweep=steps is not part of --protocol=small: leave it out.'
  digits = PROTOCOLS['digits']
  for asked, message in (
    ({'features': 'random'}, '--features is not read by --protocol=digits, which brings all it needs: leave it out.'),
    ({'real_vs_real': True}, '--real_vs_real is part of every record of --protocol=digits, as `real`: leave it out.'),
  ):
    with pytest.raises(InvalidInput) as error:
      jobs.evaluate(configuration.read(run / 'config.json'), Run(run), jobs.EvalOptions(**asked), digits)
    assert str(error.value) == message
  assert networks.seen == [] and not (run / 'evaluation/small').exists()


def test_missing_data_are_named(run, networks, tmp_path):
  config = configuration.read(run / 'config.json')
  config.data.update(name='folder', path=str(tmp_path / 'nowhere'))
  with pytest.raises(InvalidInput) as error:
    jobs.evaluate(config, Run(run), ASKED, SMALL)
  message, path = str(error.value), tmp_path / 'nowhere'
  assert message.startswith(f"--protocol=small measures against real clips: data.path='{path}' is not a folder")
  assert message.endswith('Name other data with --config.data.path=DIR.')


def clips(split='test'):
  config = configuration.default()
  config.data.update(name='digits', num_frames=4, height=16, width=16)
  config.data.digits.update(clip_frames=8)
  return data.ExampleClips(config.data, split, seed=0, num_frames=4), config


def test_draws_with_and_without_replacement():
  source, config = clips()
  few = type('Few', (), {'__len__': lambda self: 40, '__getattr__': lambda self, name: getattr(source, name)})()
  once = clip_subsets.draw(SMALL, few, 40, seed=(0, 0))
  assert sorted(once.which) == list(range(40)) and list(once.which) != list(range(40))
  again = clip_subsets.draw(SMALL._replace(replacement=True), few, 40, seed=(0, 0))
  assert len(set(again.which)) < 40
  with pytest.raises(InvalidInput, match='needs 41 clips, but the data have 40 in this split'):
    clip_subsets.draw(SMALL, few, 41, seed=(0, 0))
  cond = clip_subsets.conditions(
    SMALL._replace(task='prediction', replacement=True), config, again, 40, seed=0, prompt_file=None
  )
  assert list(cond.given.which) != list(again.which), 'what is continued is drawn for itself'
  same = clip_subsets.conditions(SMALL._replace(task='prediction'), config, once, 60, seed=0, prompt_file=None)
  np.testing.assert_array_equal(same.given.videos([3, 43]), once.videos([3, 3]))
  assert list(same.group) == [*range(40), *range(20)]
  real, _ = clip_subsets.real_samples(SMALL, few, 15, 100, 0)
  assert len(real.which) == 25 and not set(real.which) & set(clip_subsets.draw(SMALL, few, 15, seed=(0, 0)).which)


def test_windows_are_random_or_the_first():
  source, _ = clips()
  first = clip_subsets.draw(SMALL._replace(window='first'), source, 6, seed=(0, 0))
  shown = [source.window(int(clip), None).video for clip in first.which]
  np.testing.assert_array_equal(first.videos(range(6)), shown)
  drawn = clip_subsets.draw(SMALL, source, 6, seed=(0, 0))
  np.testing.assert_array_equal(drawn.videos([4]), drawn.videos(range(6))[4:5])
  assert (drawn.videos(range(6)) != np.stack(shown)).any()


def test_classes_become_prompts_by_their_names_as_often_as_they_are_in_the_data():
  """JumpRope comes before JumpingJack in folders and after it in the data set's own list."""
  _, config = clips()
  config.data.text = 'words'
  names = ('Archery', 'JumpRope', 'JumpingJack')
  labels = [2, 1, 1, 0, 1, 1]
  source = type('Classes', (), {'class_names': names, 'describe': lambda self, clip: ('', labels[clip])})()
  reference = clip_subsets.ClipSubset(source, np.array([5, 0, 1, 2, 3, 4]), np.arange(6), None)
  snap = PROTOCOLS['snap-ucf101-10k']
  cond = clip_subsets.conditions(snap, config, reference, 8, seed=0, prompt_file=None)
  rope, jack = 'a person skipping with jump rope', 'a young person doing jumping jacks'
  bow = 'a person shooting with a bow'
  assert cond.prompts == [rope, jack, rope, rope, bow, rope, rope, jack]
  assert cond.labels is None and len(set(cond.group)) == 3
  config.data.labels = True
  assert clip_subsets.conditions(snap, config, reference, 6, seed=0, prompt_file=None).labels == [1, 2, 1, 1, 0, 1]
  config.data.labels, source.class_names = False, ('Archery', 'Skating', 'Surfing')
  with pytest.raises(InvalidInput, match="has no prompt for the class 'Skating' of the data, nor for 0 others"):
    clip_subsets.conditions(snap, config, reference, 6, seed=0, prompt_file=None)


def test_prompts_that_are_not_shipped_come_from_a_file(tmp_path):
  source, config = clips()
  config.data.text = 'words'
  asked = PROTOCOLS['snap-msrvtt-59800']
  reference = clip_subsets.draw(asked, source, 3, seed=(0, 0))
  with pytest.raises(InvalidInput, match='samples 59800 prompts that are not shipped: give them with '):
    clip_subsets.conditions(asked, config, reference, 5, seed=0, prompt_file=None)
  (tmp_path / 'prompts.txt').write_text('a\nb\nc\nd\n')
  with pytest.raises(InvalidInput, match='prompts.txt has 4 prompts, but --protocol=snap-msrvtt-59800 takes 5.'):
    clip_subsets.conditions(asked, config, reference, 5, seed=0, prompt_file=str(tmp_path / 'prompts.txt'))
  cond = clip_subsets.conditions(asked, config, reference, 4, seed=0, prompt_file=str(tmp_path / 'prompts.txt'))
  assert cond.prompts == ['a', 'b', 'c', 'd']


def test_sweeps_change_what_the_papers_vary_and_reset_what_would_have_no_effect():
  config = configuration.default()
  config.data.text = 'words'
  config.sampling.update(step='ancestral', gamma=0.3, guidance_low=1.0, guidance_start=64)
  snap = PROTOCOLS['snap-internal-50k']
  guidance = sweeps.points(snap, 'guidance', config)
  assert [point.value for point in guidance] == [0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]  # Snap Fig. 5
  assert guidance[3].changes['guidance_weight'] == 1.5 and guidance[3].changes['num_steps'] == 40
  assert [point.value for point in sweeps.points(PROTOCOLS['vdm-t2v-4096'], 'guidance', config)] == [0, 1, 4]
  steps = sweeps.points(snap, 'steps', config)
  assert {point.series for point in steps} == {'ddim', 'heun', 'ancestral'}
  assert next(p.changes for p in steps if p.series == 'heun') == {'step': 'heun', 'gamma': 0.0, 'num_steps': 8}
  assert next(p.changes for p in steps if p.series == 'ancestral') == {'step': 'ancestral', 'num_steps': 8}
  first, *_ = sweeps.points(PROTOCOLS['digits'], 'steps', config)
  assert first.changes == {'step': 'ancestral', 'num_steps': 8}


def test_processes_share_batches_out_and_read_them_in_order(tmp_path, monkeypatch):
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
  with pytest.raises(InvalidInput, match='000002.npz cannot be read '):
    list(batches.read('x'))


def test_samples_that_leave_the_range_are_refused_before_they_are_made(run, networks):
  with pytest.raises(InvalidInput, match="sampling.threshold='none' lets samples leave"):
    evaluate(run, changes={'sampling.threshold': 'none'})
  assert networks.seen == []


def test_the_frames_that_networks_take_are_checked(run, networks, monkeypatch):
  load = networks.load
  monkeypatch.setattr(networks, 'load', lambda *args, **options: load(*args, **options)._replace(min_frames=9))
  assert refusal(run) == 'i3d takes 9 to 4 frames, but the protocol has 4.'
