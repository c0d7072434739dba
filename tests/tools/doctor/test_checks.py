"""Problems that the doctor finds, introduced one at a time into the shipped configurations."""

from __future__ import annotations

import functools
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from vdm_jax import configuration, data, jobs, text
from vdm_jax.data.inspection import inspect
from vdm_jax.errors import InvalidInput
from vdm_jax.tools import doctor
from vdm_jax.training import run_folder, run_lock
from vdm_jax.video import write_gif

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
FAULTS = [
  ('digits_fit', {'sampling.fps': 0}, 'sampling.fps=0'),
  ('digits_fit', {'sampling.original_size': (16,)}, r'original_size=\(16,\)'),
  ('digits_fit', {'data.num_images': 4}, "data.num_images=4, .*'fit'.*data.image_rate"),
  ('digits_fit', {'model.patch_size': (4, 4)}, r'model.patch_size=\(4, 4\)'),
  ('digits_fit', {'model.num_latents': 30}, 'model.num_latents=30 / .* model.num_latents=28 or 32'),
  ('digits_fit', {'training.accept_mismatch': True}, 'training.accept_mismatch .* training.first_stage'),
  (
    'digits_fit',
    {'training.self_condition_rate': 0.0},
    'training.self_condition_rate=0.0, but model.self_conditioning=True',
  ),
  ('digits', {'training.self_condition_rate': 0.9}, "training.self_condition_rate=0.9, .*'unet3d' never"),
  (
    'digits_fit',
    {'sampling.churn': 0.1, 'sampling.churn_min': 2.0, 'sampling.churn_max': 1.0},
    'sampling.churn_min=2.0, churn_max=1.0',
  ),
  (
    'digits_fit_upsampler',
    {'training.first_stage': '', 'sampling.noise_aug_level': 1.5},
    'sampling.noise_aug_level=1.5',
  ),
  ('digits_fit_upsampler', {'training.first_stage': 'runs/none'}, 'runs/none has no config.json'),
  ('digits', {'training.spike_factor': 0.5}, 'training.spike_factor=0.5'),
  ('digits', {'training.stall_seconds': -1.0}, 'training.stall_seconds=-1.0'),
  ('digits', {'model.num_classes': 3}, 'model.num_classes=3, .*data.labels=False .*model.num_classes=0'),
  ('digits', {'model.attention': 'cudnn', 'model.dtype': 'bfloat16'}, "model.attention='cudnn' .*NVIDIA"),
]


def shipped(name, changes):
  config = runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']()
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(('name', 'changes', 'message'), FAULTS, ids=lambda value: str(value)[:40])
def test_each_problem_is_found(name, changes, message):
  (problem,) = doctor.problems(shipped(name, changes))
  assert re.match(message, problem)


@pytest.mark.parametrize('name', ['digits', 'digits_fit'])
def test_shipped_configurations_have_no_problem(name):
  assert doctor.problems(shipped(name, {})) == []


def make_run(workdir, name, changes):
  config = shipped(name, changes)
  configuration.resolve(config, doctor.words(config))
  workdir.mkdir()
  run_folder.write_config(workdir, config)
  return config


def test_doctor_and_preflight_find_the_run_that_training_would_refuse(tmp_path, capsys):
  make_run(run := tmp_path / 'run', 'digits', {'model.base_channels': 8})
  for job in (functools.partial(jobs.examine, overfit=False), jobs.preflight):
    status = None
    try:
      status = job(shipped('digits', {}), str(run))
    except InvalidInput as error:
      print(*error.args)
    assert status != 0
    assert 'model.base_channels: 8 in the workdir' in capsys.readouterr().out
  assert sorted(path.name for path in run.iterdir()) == ['config.json'], 'nothing is left behind'


def test_the_doctor_creates_no_workdir_and_allows_what_training_allows(tmp_path, capsys):
  assert doctor.problems(shipped('digits', {}), tmp_path / 'none' / 'run') == []
  assert not (tmp_path / 'none').exists()
  make_run(run := tmp_path / 'run', 'digits', {'training.learning_rate': 1.0})
  (problem,) = doctor.problems(shipped('digits', {}), run)
  assert '--allow_change' in problem
  assert doctor.problems(shipped('digits', {}), run, allow_change=True) == []
  with run_lock.hold(run):
    (problem,) = doctor.problems(shipped('digits', {}), run, allow_change=True)
    assert 'is in use by' in problem
    assert doctor.problems(shipped('digits', {}), run, allow_change=True, live=True) == []


def test_a_run_keeps_its_vocabulary_when_clips_are_added(tmp_path):
  fill(root := tmp_path / 'clips')
  changes = {'data.path': str(root)}
  make_run(run := tmp_path / 'run', 'folder_t2v', changes)
  write_gif(root / 'new.gif', np.zeros((16, 8, 8, 3), np.uint8), fps=8)
  (root / 'new.txt').write_text('a green kite')
  assert doctor.problems(config := shipped('folder_t2v', changes), run) == []
  assert configuration.resolve(config, doctor.words(config, run)).model.vocabulary == ('a', 'ball')
  assert doctor.unknown_words(config) == ('green', 'kite')


def damage(root):
  for path in root.glob('*.gif'):
    path.write_bytes(path.read_bytes()[:100])


def shorten(root):
  for path in root.glob('*.gif'):
    write_gif(path, np.zeros((3, 8, 8, 3), np.uint8), fps=8)


def misname(root):
  (root / 'metadata.jsonl').write_text(json.dumps({'file_name': '0.gif', 'caption': 'a ball'}) + '\n')


def hide_rates(root):
  for path in [*root.glob('*.gif')]:
    path.unlink()
    np.save(path.with_suffix('.npy'), np.zeros((16, 8, 8, 3), np.uint8))


def keep(count, suffix='.*'):
  return lambda root: [path.unlink() for path in sorted(root.glob(f'*{suffix}'))[count:]]


BAD_FOLDERS = {
  'empty': (keep(0), "data.path='{root}' has no clips"),
  'captions alone': (keep(0, '.gif'), "data.path='{root}' has no clips"),
  'missing': (lambda root: [*keep(0)(root), root.rmdir()], "data.path='{root}' is not a folder"),
  'corrupt': (damage, "data.path='{root}': 2 of 20 .*data.max_bad_share=0.05"),
  'too short': (shorten, "data.path='{root}': 2 of 20 .*data.max_bad_share=0.05"),
  'misnamed keys': (misname, "{root}/metadata.jsonl: .*'text'.*'caption'"),
  'no frame rates': (hide_rates, 'data.frame_rate=0, .*{root}/0.npy'),
}


def fill(root):
  root.mkdir()
  for i in range(20):
    write_gif(root / f'{i}.gif', np.full((16, 8, 8, 3), i, np.uint8), fps=8)
    (root / f'{i}.txt').write_text('a ball')


@pytest.mark.parametrize('kind', BAD_FOLDERS)
def test_bad_folders_have_the_problem_that_inspect_reports(tmp_path, kind):
  spoil, reason = BAD_FOLDERS[kind]
  fill(root := tmp_path / 'clips')
  spoil(root)
  (problem,) = doctor.problems(shipped('folder_t2v', {'data.path': str(root)}))
  assert re.match(reason.format(root=root), problem)
  assert inspect(str(root))[0].problem is not None


@pytest.mark.parametrize('count', [1, 2])
def test_a_folder_smaller_than_a_batch_trains(tmp_path, count):
  """Every clip of the batch is a training clip; with one clip nothing is held out."""
  fill(root := tmp_path / 'clips')
  keep(2 * count)(root)
  changes = {'data.path': str(root), 'data.num_images': 1, 'data.height': 8, 'data.width': 8, 'data.num_workers': 0}
  config = shipped('folder_t2v', changes)
  assert doctor.problems(config) == []
  assert inspect(str(root))[0].problem is None
  assert data.overview(config.data).num_clips == 1
  words = text.build('words', vocabulary=('a', 'ball'), length=4)
  (batch,) = data.held_out(config.data, words, seed=0, num_batches=1, split='train')
  assert batch.x.shape == (16, 17, 8, 8, 3) and len(np.unique(batch.x)) == 1
  stream = data.build(config.data, words, seed=0)
  assert len(np.unique(next(stream).x)) == 1
  stream.close()
  if count == 1:
    with pytest.raises(data.EmptySplit):
      data.held_out(config.data, words, seed=0, num_batches=1)


def test_a_part_of_a_mixture_may_hold_nothing_out(tmp_path):
  fill(many := tmp_path / 'many')
  fill(one := tmp_path / 'one')
  keep(2)(one)
  parts = (f'folder:{one}=1', f'folder:{many}=1')
  config = shipped('folder_t2v', {'data.name': 'mixture', 'data.mixture': parts})
  assert doctor.problems(config) == []
  test = data.examples(config.data, 'test', seed=0, count=100)
  assert 0 < len(test) < 20
  config.data.mixture = parts[:1]
  with pytest.raises(data.EmptySplit):
    data.examples(config.data, 'test', seed=0, count=1)


def test_words_need_captions(tmp_path):
  fill(root := tmp_path / 'clips')
  for path in root.glob('*.txt'):
    path.unlink()
  (problem,) = doctor.problems(shipped('folder_t2v', {'data.path': str(root)}))
  assert problem.startswith("data.text='words', but no clip has a caption")


def test_invalid_settings_of_the_data_are_problems():
  found = doctor.problems(shipped('digits', {'data.image_rate': 2.0}))
  assert len(found) == 1 and found[0].startswith('data.image_rate=2.0')
  found = doctor.problems(shipped('digits', {'data.images': ('pictures:nowhere',)}))
  assert len(found) == 1 and found[0].startswith("data.path='nowhere' is not a folder")
