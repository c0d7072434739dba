"""What the doctor finds before any long work, one fault at a time, on the configurations as they are shipped."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.data.inspection import inspect
from vdm_jax.tools import doctor
from vdm_jax.video import write_gif

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
FAULTS = [
  ('digits_fit', {'sampling.fps': 0}, 'sampling.fps=0 must be positive: it is the frame rate of the videos.'),
  (
    'digits_fit',
    {'sampling.original_size': (16,)},
    'original_size=(16,) is no size: give height and width in pixels.',
  ),
  (
    'digits_fit',
    {'data.num_images': 4},
    'data.num_images=4: FIT takes no appended images, for its groups would mix them with the video. Set it to 0, and '
    'data.image_rate to train on images as videos.',
  ),
  (
    'digits_fit',
    {'model.patch_size': (4, 4)},
    'model.patch_size=(4, 4) must be three positive sizes: frames, rows, columns.',
  ),
  (
    'digits_fit',
    {'model.num_latents': 30},
    'model.num_latents=30 / 1 x 2 x 2 groups=4 leaves 2: use model.num_latents=28 or 32.',
  ),
  (
    'digits_fit',
    {'training.accept_mismatch': True},
    'training.accept_mismatch has no effect without training.first_stage: leave it out, or name one.',
  ),
  (
    'digits_fit',
    {'training.self_condition_rate': 0.0},
    'training.self_condition_rate=0.0, but model.self_conditioning=True: a network that hands on its latents must see '
    'them in training, and only such a one can. Snap uses 0.9; set both or neither.',
  ),
  (
    'digits',
    {'training.self_condition_rate': 0.9},
    'training.self_condition_rate=0.9, but model.self_conditioning=False: a network that hands on its latents must see '
    'them in training, and only such a one can. Snap uses 0.9; set both or neither.',
  ),
  (
    'digits_fit',
    {'sampling.churn': 0.1, 'sampling.churn_min': 2.0, 'sampling.churn_max': 1.0},
    'sampling.churn_min=2.0, churn_max=1.0: choose 0 <= churn_min < churn_max.',
  ),
  (
    'digits_fit_upsampler',
    {'training.first_stage': '', 'sampling.noise_aug_level': 1.5},
    'sampling.noise_aug_level=1.5 must be in [0, 1]: 0 leaves the low-resolution video unchanged, 1 is pure noise.',
  ),
  (
    'digits_fit_upsampler',
    {'training.first_stage': 'runs/none'},
    'runs/none has no config.json: name the workdir of a training run, or a weights file.',
  ),
  (
    'digits',
    {'training.spike_factor': 0.5},
    'training.spike_factor=0.5: a gradient norm is a spike from several times the usual one on, such as 10; '
    'give a number above 1, or 0 for no such limit.',
  ),
  (
    'digits',
    {'training.stall_seconds': -1.0},
    'training.stall_seconds=-1.0: give the seconds that a step may take, 0 for no limit.',
  ),
  (
    'digits',
    {'model.attention': 'cudnn', 'model.dtype': 'bfloat16'},
    "model.attention='cudnn' needs an NVIDIA GPU, but JAX runs on cpu here: set --config.model.attention=xla.",
  ),
]


def shipped(name, changes):
  config = runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']()
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(('name', 'changes', 'message'), FAULTS, ids=lambda value: str(value)[:40])
def test_faults_are_found_one_by_one(name, changes, message):
  assert doctor.problems(shipped(name, changes)) == [message]


@pytest.mark.parametrize('name', ['digits', 'digits_fit'])
def test_nothing_is_wrong_with_what_is_shipped(name):
  assert doctor.problems(shipped(name, {})) == []


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
  'empty': (keep(0), "data.path='{root}' has no clips. A data folder holds clips ("),
  'captions alone': (keep(0, '.gif'), "data.path='{root}' has no clips. A data folder holds clips ("),
  'missing': (lambda root: [*keep(0)(root), root.rmdir()], "data.path='{root}' is not a folder; check the path. A "),
  'one clip': (keep(2), "data.path='{root}' has 1 clip, so that none is left for the test split; add clips, or use"),
  'corrupt': (damage, "data.path='{root}': 2 of 20 clips cannot be used, more than data.max_bad_share=0.05 allows:\n"),
  'too short': (shorten, "data.path='{root}': 2 of 20 clips cannot be used, more than data.max_bad_share=0.05"),
  'misnamed keys': (misname, "{root}/metadata.jsonl: captions have the key 'text', not 'caption'; rename it."),
  'no frame rates': (hide_rates, 'data.frame_rate=0, but {root}/0.npy does not tell its frame rate; set it to its '),
}


def fill(root):
  root.mkdir()
  for i in range(20):
    write_gif(root / f'{i}.gif', np.full((16, 8, 8, 3), i, np.uint8), fps=8)
    (root / f'{i}.txt').write_text('a ball')


@pytest.mark.parametrize('kind', BAD_FOLDERS)
def test_bad_folders_are_refused_as_inspect_says(tmp_path, kind):
  spoil, reason = BAD_FOLDERS[kind]
  fill(root := tmp_path / 'clips')
  spoil(root)
  (problem,) = doctor.problems(shipped('folder_t2v', {'data.path': str(root)}))
  assert problem.startswith(reason.format(root=root))
  assert inspect(str(root))[0].problem is not None


def test_clips_without_captions_teach_no_words(tmp_path):
  fill(root := tmp_path / 'clips')
  for path in root.glob('*.txt'):
    path.unlink()
  assert doctor.problems(shipped('folder_t2v', {'data.path': str(root)})) == [
    "data.text='words', but no clip has a caption: add clip.txt beside clip.mp4, make captions with `python -m "
    'vdm_jax.data caption`, or set --config.data.text=none.'
  ]


def test_settings_of_the_data_are_refused_before_training():
  found = doctor.problems(shipped('digits', {'data.image_rate': 2.0}))
  assert found == ['data.image_rate=2.0, but it must be a share, 0 to 1.']
  found = doctor.problems(shipped('digits', {'data.images': ('pictures:nowhere',)}))
  assert [problem.split(' A ')[0].split(' Such')[0] for problem in found] == [
    "data.path='nowhere' is not a folder; check the path."
  ]
