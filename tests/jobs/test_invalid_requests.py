"""Invalid requests for long and conditional videos: rejected before any work, with a message that names the input."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_runs import CLIP, REPOSITORY, SAMPLERS, SECOND, SMALL, command, make_run, videos

from vdm_jax import data
from vdm_jax.errors import InvalidInput
from vdm_jax.generation import long_sample, long_video
from vdm_jax.jobs import arguments
from vdm_jax.text.prompts import read_prompts
from vdm_jax.video import write_gif


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
  """Runs (`base` and `other` alone have weights) and files to give; the messages below name them by this folder."""
  folder = tmp_path_factory.mktemp('invalid')
  make_run(folder / 'base')
  make_run(folder / 'other', seed=1)
  make_run(folder / 'untold', {'model.scalars': ()}, weights=False)
  make_run(folder / 'small', SMALL, weights=False)
  make_run(folder / 'rgb', SMALL | {'data.channels': 3}, weights=False)
  make_run(folder / 'second', SECOND, weights=False)
  (folder / 'empty').mkdir()
  np.save(folder / 'clip.npy', CLIP)
  np.save(folder / 'one.npy', CLIP[:1])
  np.save(folder / 'low.npy', CLIP[:5, :8, :8])
  np.save(folder / 'odd.npy', CLIP[:5, :5, :8])
  write_gif(folder / 'ten.gif', CLIP[:5], fps=10)
  write_gif(folder / 'slow.gif', CLIP[:5], fps=4)
  return folder


# (run, request, what the message names); FOLDER stands for the folder of runs and files.
INVALID = [
  # Flags that contradict each other.
  ('base', {'low_resolution': 'FOLDER/low.npy', 'init_video': 'FOLDER/clip.npy'}, '--low_resolution --init_video'),
  ('base', {'low_resolution': 'FOLDER/low.npy', 'frame_rates': (2.0, 8.0)}, '--low_resolution --frame_rates'),
  ('base', {'frame_rates': (2.0, 8.0), 'init_video': 'test'}, '--frame_rates --init_video'),
  ('base', {'frame_rates': (2.0, 8.0), 'interpolate': 2}, '--frame_rates --interpolate'),
  ('base', {'frame_rates': (2.0, 8.0), 'frame_rate': 8.0}, '--frame_rates --fps'),
  ('base', {'prompts': ['a 3'], 'labels': [3], 'num_frames': 20}, '--prompt --label'),
  ('base', {'init_video': 'test', 'init_frames': 3, 'prompts': ['a 3']}, '--init_video=test --init_frames --prompt'),
  ('base', {'init_video': 'test', 'init_frames': 3, 'interpolate': 2}, '--init_video=test --init_frames --interpolate'),
  ('base', {'init_video': 'test'}, '--init_video=test --init_frames'),
  ('base', {'frame_rates': (2.0, 8.0)}, '--frame_rates --num_frames'),
  ('base', {'interpolate': 3}, '--interpolate=3 --init_video --frame_rates'),
  ('base', {'init_frames': 3}, '--init_frames=3 --init_video'),
  ('base', {'fit': 'none', 'init_video': 'test', 'init_frames': 3}, '--fit=none'),
  ('base', {'fit': 'none', 'low_resolution': 'FOLDER/small'}, '--fit=none'),
  ('base', {'seeds': (1, 2), 'init_video': 'test', 'init_frames': 3}, '--seeds --init_video=test --first_video'),
  # Numbers.
  ('base', {'init_frames': 0, 'init_video': 'FOLDER/clip.npy'}, '--init_frames=0'),
  ('base', {'init_frames': 0}, '--init_frames=0 --init_video'),
  ('base', {'num_frames': 0}, '--num_frames=0'),
  ('base', {'num_frames': -1, 'init_video': 'FOLDER/clip.npy'}, '--num_frames=-1'),
  ('base', {'interpolate': 1, 'init_video': 'FOLDER/clip.npy'}, '--interpolate=1'),
  ('base', {'interpolate': 0, 'low_resolution': 'FOLDER/low.npy'}, '--interpolate=0'),
  ('base', {'num_frames': 20, 'overlap': 8}, 'overlap=8 7'),
  ('base', {'overlap': 0}, 'overlap=0 7'),
  ('base', {'init_video': 'FOLDER/clip.npy', 'interpolate': 8}, 'factor 8 7'),
  ('base', {'init_video': 'FOLDER/clip.npy', 'interpolate': 4, 'overlap': 5}, 'overlap=5 4'),
  (
    'base',
    {'init_video': 'FOLDER/clip.npy', 'init_frames': 3, 'interpolate': 4, 'num_frames': 13},
    'num_frames=13 3 4 9 12',
  ),
  ('base', {'low_resolution': 'FOLDER/low.npy', 'interpolate': 8}, 'factor 8 7'),
  ('base', {'low_resolution': 'FOLDER/low.npy', 'num_frames': 6}, 'num_frames=6 5'),
  ('base', {'frame_rates': (3.0, 8.0), 'num_frames': 20}, 'frame rate 8 3 6'),
  ('base', {'frame_rates': (2.0, 8.0), 'num_frames': 20, 'overlap': 5}, 'overlap=5 4'),
  # Given frames.
  ('base', {'init_video': 'FOLDER/clip.npy'}, 'num_frames=8 12'),
  (
    'base',
    {'init_video': 'FOLDER/clip.npy', 'init_frames': 13, 'num_frames': 20},
    '--init_frames=13 FOLDER/clip.npy 12',
  ),
  ('base', {'init_video': 'FOLDER/one.npy', 'interpolate': 2}, '1 two'),
  ('base', {'init_video': 'test', 'init_frames': 33, 'num_frames': 40}, '--init_video=test --init_frames=33 32 33'),
  ('base', {'init_video': 'test', 'init_frames': 3, 'frame_rate': 4.0}, '--fps=4 8'),
  ('base', {'init_video': 'FOLDER/low.npy', 'num_frames': 20, 'fit': 'none'}, 'FOLDER/low.npy 8x8 16x16'),
  ('base', {'init_video': 'FOLDER/none.mp4', 'num_frames': 20}, 'FOLDER/none.mp4'),
  ('untold', {'init_video': 'FOLDER/slow.gif', 'num_frames': 20}, 'FOLDER/slow.gif 4 8 --config.sampling.fps=4'),
  (
    'untold',
    {'init_video': 'FOLDER/ten.gif', 'init_frames': 5, 'num_frames': 20},
    '--init_frames=5 FOLDER/ten.gif 4 8',
  ),
  (
    'untold',
    {'init_video': 'FOLDER/ten.gif', 'num_frames': 20, 'fit': 'none'},
    'FOLDER/ten.gif 10 8 --config.sampling.fps=10 fps=8',
  ),
  (
    'base',
    {'init_video': 'FOLDER/ten.gif', 'frame_rate': 8.0, 'interpolate': 2, 'fit': 'none'},
    'FOLDER/ten.gif 10 4 --fps=20 fps=4',
  ),
  ('base', {'low_resolution': 'FOLDER/clip.npy', 'fit': 'none'}, '--low_resolution=FOLDER/clip.npy 16x16 8x8 4x4 2x2'),
  ('base', {'low_resolution': 'FOLDER/odd.npy', 'fit': 'none'}, '--low_resolution=FOLDER/odd.npy 5x8 16x16 8x8'),
  ('small', {'low_resolution': 'FOLDER/base'}, '--low_resolution=FOLDER/base 16x16 8x8 4x4 2x2 1x1'),
  ('base', {'low_resolution': 'FOLDER/second'}, '--low_resolution=FOLDER/second'),
  ('base', {'low_resolution': 'FOLDER/rgb'}, '--low_resolution=FOLDER/rgb channels=3 1'),
  ('base', {'low_resolution': 'FOLDER/empty'}, '--low_resolution=FOLDER/empty config.json'),
  # Conditions that the model does not have.
  ('untold', {'num_frames': 20, 'frame_rate': 12.0}, '--fps frame_interval model.scalars'),
  ('base', {'num_frames': 20, 'original_size': (16, 16)}, '--original_size resolution model.scalars'),
  ('untold', {'num_frames': 20, 'frame_rates': (2.0, 8.0)}, '--frame_rates frame_interval model.scalars'),
  ('base', {'num_frames': 20, 'frame_rate': math.inf}, '--fps=image'),
  ('second', {'low_resolution': 'FOLDER/low.npy'}, '--low_resolution second'),
]


def refusal(*arguments, **request) -> str:
  with pytest.raises(InvalidInput) as error:
    command(*arguments, **request)
  (message,) = error.value.args
  return message


def names(message: str, words: str, folder: Path) -> bool:
  """Whether a message contains all words, in which FOLDER stands for a folder."""
  return all(word.replace('FOLDER', str(folder)) in message for word in words.split())


@pytest.mark.parametrize(('run', 'request_', 'words'), INVALID, ids=[f'{run} {words}' for run, _, words in INVALID])
def test_invalid_requests_are_rejected_before_anything_is_loaded(folder, run, request_, words, tmp_path, monkeypatch):
  monkeypatch.setattr(long_sample, 'open_stages', lambda *inputs: pytest.fail('a model is loaded'))
  request_ = {
    name: value.replace('FOLDER', str(folder)) if isinstance(value, str) else value for name, value in request_.items()
  }
  message = refusal(folder / run, tmp_path / 'out', **request_)
  assert names(message, words, folder), message
  assert not list(tmp_path.iterdir())


def test_a_frame_rate_of_zero(folder, tmp_path):
  for request in ({'num_frames': 20}, {'init_video': folder / 'ten.gif'}):
    message = refusal(folder / 'base', tmp_path / 'out', changes={'sampling.fps': 0}, **request)
    assert message.startswith('sampling.fps=0 ')


def test_more_clips_than_the_test_split_has(folder, tmp_path, monkeypatch):
  examples = data.examples
  monkeypatch.setattr(data, 'examples', lambda *inputs, **options: examples(*inputs, **options)[:2])
  message = refusal(folder / 'base', tmp_path / 'out', init_video='test', init_frames=3, repeats=3)
  assert message.startswith('--num_videos=3') and '2 clips' in message


# (run, changes, request, what the message names)
UNSUITABLE = [
  ('base', {}, {'prompts': ['a 3']}, 'prompts data.text'),
  ('base', {}, {'labels': [3]}, 'labels model.num_classes'),
  (
    'base',
    {'sampling.conditioning': 'replacement', 'sampling.gamma': 0.1},
    {},
    "sampling.conditioning='replacement' gamma=0.1",
  ),
  ('base', {'sampling.conditioning': 'guess'}, {}, "sampling.conditioning='guess' reconstruction replacement redraw"),
  (
    'base',
    {'sampling.reconstruction_weight': 0.0},
    {},
    "sampling.reconstruction_weight=0.0 conditioning='reconstruction'",
  ),
  (
    'base',
    {'sampling.conditioning': 'replacement'},
    {'low_resolution': 'FOLDER/low.npy', 'num_frames': None},
    "sampling.conditioning='replacement' reconstruction",
  ),
  ('base', {'sampling.step': 'ddim', 'sampling.gamma': 0.1}, {}, "sampling.gamma=0.1 step='ddim'"),
  (
    'second',
    {'training.first_stage': 'FOLDER/base', 'sampling.noise_aug_level': 2.0},
    {},
    'sampling.noise_aug_level=2.0',
  ),
  ('second', {}, {}, 'second stage --config.training.first_stage'),
  ('base', {}, {'low_resolution': 'FOLDER/small', 'num_frames': 8}, 'FOLDER/small/checkpoints'),
]


@pytest.mark.parametrize(
  ('run', 'changes', 'request_', 'words'), UNSUITABLE, ids=[f'{run} {words}' for run, *_, words in UNSUITABLE]
)
def test_unsuitable_models_and_settings_are_rejected_before_anything_is_written(
  folder, run, changes, request_, words, tmp_path, monkeypatch
):
  monkeypatch.setattr(long_video, 'fill', lambda *inputs, **options: pytest.fail('sampling starts'))
  if 'first_stage' in str(changes):
    make_run(tmp_path / 'second', SECOND)
    folder_of_run = tmp_path / 'second'
  else:
    folder_of_run = folder / run
  changes, request_ = (
    {name: value.replace('FOLDER', str(folder)) if isinstance(value, str) else value for name, value in given.items()}
    for given in (changes, {'num_frames': 20} | request_)
  )
  message = refusal(folder_of_run, tmp_path / 'out', changes=changes, **request_)
  assert names(message, words, folder), message
  assert not (tmp_path / 'out').exists(), 'otherwise the corrected command would find the files of another'


@pytest.fixture
def _compiled_once(monkeypatch):
  monkeypatch.setattr(long_video, 'make_window_sampler', SAMPLERS)
  SAMPLERS.stop = None


@pytest.mark.slow
@pytest.mark.usefixtures('_compiled_once')
def test_the_videos_of_another_command_are_left_alone(folder, tmp_path):
  asked = {'num_frames': 12, 'repeats': 2}
  out = tmp_path / 'out'
  command(folder / 'base', out, **asked)
  before = {path.name: path.read_bytes() for path in out.iterdir()}

  def refused(differs, run='base', **request):
    message = refusal(folder / run, out, **asked | request)
    assert message.startswith(f'--out={out} ') and f'differs in {differs}:' in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

  refused('seed', changes={'seed': 1})
  refused('weights', run='other')
  refused('plan', num_frames=13)
  refused('sampling', changes={'sampling.num_steps': 5})
  refused('frame_rate', frame_rate=4.0)
  refused('plan, given', init_video=folder / 'clip.npy', init_frames=3)
  command(folder / 'base', out, **asked)  # itself goes on


@pytest.mark.usefixtures('_compiled_once')
def test_files_of_another_size_are_named(folder, tmp_path):
  np.save(tmp_path / '0000.npy', CLIP)
  message = refusal(folder / 'base', tmp_path, num_frames=20)
  assert all(part in message for part in (f'{tmp_path}/0000.npy', '(12, 16, 16, 1)', '(20, 16, 16, 1)')), message
  (tmp_path / '0000.npy').unlink()
  (tmp_path / 'blocked').touch()
  assert refusal(folder / 'base', tmp_path / 'blocked', num_frames=20).startswith(f'{tmp_path}/blocked ')


@pytest.mark.usefixtures('_compiled_once')
def test_samples_that_are_not_finite_end_it_and_what_was_made_stays(folder, tmp_path, monkeypatch):
  command(folder / 'base', tmp_path / 'whole', num_frames=12, repeats=2)

  def make_broken(*inputs, **options):
    sampler = SAMPLERS(*inputs, **options)

    def sample_window(params, keys, cond, observed, report):
      x = sampler(params, keys, cond, observed, report)
      return x if observed is None else np.full_like(x, np.nan)

    return sample_window

  monkeypatch.setattr(long_video, 'make_window_sampler', make_broken)
  message = refusal(folder / 'base', tmp_path / 'out', num_frames=12, repeats=2)
  assert names(message, "window 2 of 2 model.dtype='float32' sampling.reconstruction_weight", folder), message
  assert json.loads((tmp_path / 'out/progress.json').read_text()) == {'done': 1}
  np.testing.assert_array_equal(videos(tmp_path / 'out')[:, :8], videos(tmp_path / 'whole')[:, :8])
  monkeypatch.setattr(long_video, 'make_window_sampler', SAMPLERS)
  command(folder / 'base', tmp_path / 'out', num_frames=12, repeats=2)
  np.testing.assert_array_equal(videos(tmp_path / 'out'), videos(tmp_path / 'whole'))


@pytest.mark.parametrize(
  ('read', 'text', 'flag'),
  [
    *((arguments.read_frame_rates, text, '--frame_rates') for text in ('2,x', '', '0,8', '2,inf')),
    (arguments.read_frame_rate, '-1', '--fps'),
    (arguments.read_frame_rate, 'fast', '--fps'),
    (arguments.read_size, '0x16', '--original_size'),
    (read_prompts, 'none.txt', '--prompt_file'),
  ],
)
def test_invalid_values_of_flags_are_named(read, text, flag):
  with pytest.raises(InvalidInput, match=f'^{flag}={re.escape(text)} '):
    read(text)


def test_the_command_ends_with_the_message_and_status_2(folder, tmp_path):
  arguments = [f'--workdir={folder / "base"}', f'--out={tmp_path / "out"}', '--num_frames=20', '--overlap=8']
  done = subprocess.run(
    [sys.executable, '-m', 'vdm_jax.main', '--mode=sample', *arguments], cwd=REPOSITORY, capture_output=True, text=True
  )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith('error: overlap=8 ') and done.stderr.count('error') == 1
  assert not list(tmp_path.iterdir())
