"""What the long and conditional sampling of the command line refuses: word for word, and before any work."""

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

from vdm_jax import data, jobs
from vdm_jax.errors import InvalidInput
from vdm_jax.generation import long_sample, long_video
from vdm_jax.video import write_gif


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
  """Runs (`base` and `other` alone have weights) and files to give; the messages below name them by this folder."""
  folder = tmp_path_factory.mktemp('refused')
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
  return folder


CLIPS = '--init_video=test continues clips of the test split under their own captions: say how many of their frames '
ANYTHING = (
  'a video (mp4, mov, mkv, webm, avi, gif), a picture, or a .npy array of uint8 or of floats in [-1, 1] with the axes '
  '[frames, height, width, 1 or 3 channels]'
)
EXACT = 'The mp4 files that this library writes of small videos are enlarged; the .npy file beside them is exact.'
# (run, request, message); FOLDER stands for the folder of runs and files.
REFUSED = [
  # Flags that do not go together.
  (
    'base',
    {'low_resolution': 'FOLDER/low.npy', 'init_video': 'FOLDER/clip.npy'},
    '--low_resolution and --init_video are both given: give one of them.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/low.npy', 'frame_rates': (2.0, 8.0)},
    '--low_resolution and --frame_rates are both given: give one of them.',
  ),
  (
    'base',
    {'frame_rates': (2.0, 8.0), 'init_video': 'test'},
    '--frame_rates and --init_video are both given: give one of them.',
  ),
  (
    'base',
    {'frame_rates': (2.0, 8.0), 'interpolate': 2},
    '--frame_rates and --interpolate are both given: give one of them.',
  ),
  ('base', {'frame_rates': (2.0, 8.0), 'frame_rate': 8.0}, '--frame_rates and --fps are both given: give one of them.'),
  (
    'base',
    {'prompts': ['a 3'], 'labels': [3], 'num_frames': 20},
    '--prompt and --label are both given: give one of them.',
  ),
  (
    'base',
    {'init_video': 'test', 'init_frames': 3, 'prompts': ['a 3']},
    CLIPS + 'are given with --init_frames, and leave out --prompt, --label and --interpolate.',
  ),
  (
    'base',
    {'init_video': 'test', 'init_frames': 3, 'interpolate': 2},
    CLIPS + 'are given with --init_frames, and leave out --prompt, --label and --interpolate.',
  ),
  (
    'base',
    {'init_video': 'test'},
    CLIPS + 'are given with --init_frames, and leave out --prompt, --label and --interpolate.',
  ),
  (
    'base',
    {'frame_rates': (2.0, 8.0)},
    '--frame_rates needs the length of the video at the highest of them: give --num_frames.',
  ),
  (
    'base',
    {'interpolate': 3},
    '--interpolate=3 needs frames to interpolate between: name their file with --init_video, or give --frame_rates to '
    'make a video at several frame rates.',
  ),
  ('base', {'init_frames': 3}, '--init_frames=3 counts given frames: give 1 or more, with --init_video.'),
  # Numbers.
  (
    'base',
    {'init_frames': 0, 'init_video': 'FOLDER/clip.npy'},
    '--init_frames=0 counts given frames: give 1 or more, with --init_video.',
  ),
  ('base', {'init_frames': 0}, '--init_frames=0 counts given frames: give 1 or more, with --init_video.'),
  ('base', {'num_frames': 0}, '--num_frames=0: ask for one frame or more.'),
  ('base', {'num_frames': -1, 'init_video': 'FOLDER/clip.npy'}, '--num_frames=-1: ask for one frame or more.'),
  (
    'base',
    {'interpolate': 1, 'init_video': 'FOLDER/clip.npy'},
    '--interpolate=1 raises no frame rate: give a factor of 2 or more.',
  ),
  (
    'base',
    {'interpolate': 0, 'low_resolution': 'FOLDER/low.npy'},
    '--interpolate=0 raises no frame rate: give a factor of 2 or more.',
  ),
  ('base', {'num_frames': 20, 'overlap': 8}, 'overlap=8 must be below the 8 frames of a window: choose 1 to 7.'),
  ('base', {'overlap': 0}, 'overlap=0, but a window must see a frame of the one before: choose 1 to 7.'),
  (
    'base',
    {'init_video': 'FOLDER/clip.npy', 'interpolate': 8},
    'a factor of 8 cannot be interpolated with windows of 8 frames, which must hold two given frames: choose 2 to 7, '
    'or interpolate several times.',
  ),
  (
    'base',
    {'init_video': 'FOLDER/clip.npy', 'interpolate': 4, 'overlap': 5},
    'overlap=5 must be below the 8 frames of a window and leave room for the next known frame, 4 further on: choose 1 '
    'to 4.',
  ),
  (
    'base',
    {'init_video': 'FOLDER/clip.npy', 'init_frames': 3, 'interpolate': 4, 'num_frames': 13},
    'num_frames=13, but 3 frames at a factor of 4 span 9, and at most 3 more are extrapolated: choose 9 to 12.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/low.npy', 'interpolate': 8},
    'a temporal factor of 8 cannot be made with windows of 8 frames: choose 1 to 7.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/low.npy', 'num_frames': 6},
    'num_frames=6, but 5 frames at a factor of 1 span 5, and at most 0 more are extrapolated: choose 5 to 5.',
  ),
  (
    'base',
    {'frame_rates': (3.0, 8.0), 'num_frames': 20},
    'frame rate 8 cannot follow 3: each must be a whole multiple of the one before, at most 7 times as high for '
    'windows of 8 frames, such as 3, 6.',
  ),
  (
    'base',
    {'frame_rates': (2.0, 8.0), 'num_frames': 20, 'overlap': 5},
    'overlap=5 must be below the 8 frames of a window and leave room for the next known frame, 4 further on: choose 1 '
    'to 4.',
  ),
  # What is given.
  (
    'base',
    {'init_video': 'FOLDER/clip.npy'},
    'num_frames=8, but 12 frames are given: ask for more frames in all, or give fewer.',
  ),
  (
    'base',
    {'init_video': 'FOLDER/clip.npy', 'init_frames': 13, 'num_frames': 20},
    '--init_frames=13, but FOLDER/clip.npy has 12 frames: give at most as many.',
  ),
  (
    'base',
    {'init_video': 'FOLDER/one.npy', 'interpolate': 2},
    '1 frames are given, but interpolation needs two or more: give a longer clip.',
  ),
  (
    'base',
    {'init_video': 'test', 'init_frames': 33, 'num_frames': 40},
    '--init_video=test --init_frames=33: 32 frames are too few: num_frames=33 with frame_skip=1 needs 33; ask for '
    'fewer.',
  ),
  (
    'base',
    {'init_video': 'test', 'init_frames': 3, 'frame_rate': 4.0},
    '--fps=4, but the test split has 8 frames per second: leave it out.',
  ),
  (
    'base',
    {'init_video': 'FOLDER/low.npy', 'num_frames': 20},
    'FOLDER/low.npy: the frames are 8x8 (height x width), but 16x16 are needed: resize the array before it is saved. '
    + EXACT,
  ),
  (
    'base',
    {'init_video': 'FOLDER/none.mp4', 'num_frames': 20},
    f'FOLDER/none.mp4: there is no such file; check the path, or give {ANYTHING}.',
  ),
  (
    'untold',
    {'init_video': 'FOLDER/ten.gif', 'num_frames': 20},
    'FOLDER/ten.gif: the file has 10 frames per second, but 8 are wanted: give --config.sampling.fps=10, convert '
    'the file, for example with `ffmpeg -i FOLDER/ten.gif -vf fps=8 OUT.mp4`, or give a .npy file, which tells no '
    'rate.',
  ),
  (
    'base',
    {'init_video': 'FOLDER/ten.gif', 'frame_rate': 8.0, 'interpolate': 2},
    'FOLDER/ten.gif: the file has 10 frames per second, but 4 are wanted: give --fps=20, convert the file, for '
    'example with `ffmpeg -i FOLDER/ten.gif -vf fps=4 OUT.mp4`, or give a .npy file, which tells no rate.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/clip.npy'},
    '--low_resolution=FOLDER/clip.npy has frames of 16x16, which no whole factor makes 16x16: give one of 8x8, 4x4, '
    '2x2.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/odd.npy'},
    '--low_resolution=FOLDER/odd.npy has frames of 5x8, which no whole factor makes 16x16: give one of 8x8, 4x4, 2x2.',
  ),
  (
    'small',
    {'low_resolution': 'FOLDER/base'},
    '--low_resolution=FOLDER/base has frames of 16x16, which no whole factor makes 8x8: give one of 4x4, 2x2, 1x1.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/second'},
    '--low_resolution=FOLDER/second is a second stage: name a run that makes videos from noise alone.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/rgb'},
    '--low_resolution=FOLDER/rgb makes videos of channels=3, but this model of 1: name a run of as many.',
  ),
  (
    'base',
    {'low_resolution': 'FOLDER/empty'},
    '--low_resolution=FOLDER/empty has no config.json: name the folder of a training run, or a file.',
  ),
  # What the model cannot be asked for.
  (
    'untold',
    {'num_frames': 20, 'frame_rate': 12.0},
    '--fps has no effect: this model was trained without frame_interval in model.scalars. Leave it out.',
  ),
  (
    'base',
    {'num_frames': 20, 'original_size': (16, 16)},
    '--original_size has no effect: this model was trained without resolution in model.scalars. Leave it out.',
  ),
  (
    'untold',
    {'num_frames': 20, 'frame_rates': (2.0, 8.0)},
    '--frame_rates needs a model that is told the frame rate: this one was trained without frame_interval in '
    'model.scalars. Use --init_video and --interpolate, with a model of the higher frame rate.',
  ),
  (
    'base',
    {'num_frames': 20, 'frame_rate': math.inf},
    '--fps=image asks for one image, which has no further frames: leave it out, or the other flags.',
  ),
  (
    'second',
    {'low_resolution': 'FOLDER/low.npy'},
    '--low_resolution is for a model without such an input: this one samples its own first stage.',
  ),
]


def refusal(*arguments, **request) -> str:
  with pytest.raises(InvalidInput) as error:
    command(*arguments, **request)
  (message,) = error.value.args
  return message


@pytest.mark.parametrize(('run', 'request_', 'message'), REFUSED, ids=[message[:40] for *_, message in REFUSED])
def test_refused_before_anything_is_loaded(folder, run, request_, message, tmp_path, monkeypatch):
  monkeypatch.setattr(long_sample, 'open_stages', lambda *inputs: pytest.fail('a model is loaded'))
  request_ = {
    name: value.replace('FOLDER', str(folder)) if isinstance(value, str) else value for name, value in request_.items()
  }
  assert refusal(folder / run, tmp_path / 'out', **request_) == message.replace('FOLDER', str(folder))
  assert not list(tmp_path.iterdir())


def test_a_frame_rate_that_is_none(folder, tmp_path):
  message = 'sampling.fps=0 must be positive: it is the frame rate of the videos.'
  for request in ({'num_frames': 20}, {'init_video': folder / 'ten.gif'}):
    assert refusal(folder / 'base', tmp_path / 'out', changes={'sampling.fps': 0}, **request) == message


def test_more_clips_than_the_test_split_has(folder, tmp_path, monkeypatch):
  examples = data.examples
  monkeypatch.setattr(data, 'examples', lambda *inputs, **options: examples(*inputs, **options)[:2])
  assert refusal(folder / 'base', tmp_path / 'out', init_video='test', init_frames=3, repeats=3) == (
    '--num_videos=3, but the test split has 2 clips: ask for fewer.'
  )


# (run, changes, request, message)
UNSUITABLE = [
  (
    'base',
    {},
    {'prompts': ['a 3']},
    "prompts were given to a model without text (data.text='none'): leave them out, or give labels.",
  ),
  (
    'base',
    {},
    {'labels': [3]},
    'labels were given to a model without classes (model.num_classes=0): leave them out, or give prompts.',
  ),
  (
    'base',
    {'sampling.conditioning': 'replacement', 'sampling.gamma': 0.1},
    {},
    "sampling.conditioning='replacement' with gamma=0.1 gives the given frames too much noise: set gamma=0, or "
    "conditioning='redraw', which is exact for every gamma.",
  ),
  (
    'base',
    {'sampling.conditioning': 'guess'},
    {},
    "sampling.conditioning='guess' is unknown: choose one of reconstruction, replacement, redraw.",
  ),
  (
    'base',
    {'sampling.reconstruction_weight': 0.0},
    {},
    "sampling.reconstruction_weight=0.0 leaves conditioning='reconstruction' without guidance: give a positive weight "
    "(VDM uses 9 and 50), or conditioning='replacement'.",
  ),
  (
    'base',
    {'sampling.conditioning': 'replacement'},
    {'low_resolution': 'FOLDER/low.npy', 'num_frames': None},
    "sampling.conditioning='replacement' can hold frames, but not a smaller video: use conditioning='reconstruction'.",
  ),
  (
    'base',
    {'sampling.step': 'ddim', 'sampling.gamma': 0.1},
    {},
    "sampling.gamma=0.1 has no effect on step='ddim': set it to 0, or sampling.step='ancestral'.",
  ),
  (
    'second',
    {'training.first_stage': 'FOLDER/base', 'sampling.noise_aug_level': 2.0},
    {},
    'sampling.noise_aug_level=2.0 must be in [0, 1]: 0 leaves the low-resolution video unchanged, 1 is pure noise.',
  ),
  (
    'second',
    {},
    {},
    'a second stage makes videos out of those of its first: name that run with --config.training.first_stage=DIR.',
  ),
  (
    'base',
    {},
    {'low_resolution': 'FOLDER/small', 'num_frames': 8},
    'FOLDER/small/checkpoints holds no checkpoint: train first, or name another workdir.',
  ),
]


@pytest.mark.parametrize(
  ('run', 'changes', 'request_', 'message'), UNSUITABLE, ids=[message[:40] for *_, message in UNSUITABLE]
)
def test_what_the_models_cannot_do_is_refused_before_anything_is_written(
  folder, run, changes, request_, message, tmp_path, monkeypatch
):
  monkeypatch.setattr(long_video, 'fill', lambda *inputs, **options: pytest.fail('sampling begins'))
  if 'first_stage' in str(changes):
    make_run(tmp_path / 'second', SECOND)
    folder_of_run = tmp_path / 'second'
  else:
    folder_of_run = folder / run
  changes, request_ = (
    {name: value.replace('FOLDER', str(folder)) if isinstance(value, str) else value for name, value in given.items()}
    for given in (changes, {'num_frames': 20} | request_)
  )
  said = refusal(folder_of_run, tmp_path / 'out', changes=changes, **request_)
  assert said == message.replace('FOLDER', str(folder))
  assert not (tmp_path / 'out').exists(), 'or the command that is mended would find the videos of another'


@pytest.fixture
def _compiled_once(monkeypatch):
  monkeypatch.setattr(long_video, 'make_window_sampler', SAMPLERS)
  SAMPLERS.stop = None


@pytest.mark.usefixtures('_compiled_once')
def test_the_videos_of_another_command_are_left_alone(folder, tmp_path):
  asked = {'num_frames': 12, 'repeats': 2}
  out = tmp_path / 'out'
  command(folder / 'base', out, **asked)
  before = {path.name: path.read_bytes() for path in out.iterdir()}

  def refused(differs, run='base', **request):
    assert refusal(folder / run, out, **asked | request) == (
      f'--out={out} holds videos of another command, which differs in {differs}: choose another folder, or empty this '
      'one.'
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

  refused('seed', changes={'seed': 1})
  refused('workdir', run='other')
  refused('plan', num_frames=13)
  refused('sampling', changes={'sampling.num_steps': 5})
  refused('frame_rate', frame_rate=4.0)
  refused('plan, given', init_video=folder / 'clip.npy', init_frames=3)
  command(folder / 'base', out, **asked)  # itself goes on


@pytest.mark.usefixtures('_compiled_once')
def test_files_that_are_no_videos_of_this_size_are_named(folder, tmp_path):
  np.save(tmp_path / '0000.npy', CLIP)
  assert refusal(folder / 'base', tmp_path, num_frames=20) == (
    f'{tmp_path}/0000.npy holds uint8 (12, 16, 16, 1), not uint8 (20, 16, 16, 1); remove it, or write to another '
    'folder.'
  )
  (tmp_path / '0000.npy').unlink()
  (tmp_path / 'blocked').touch()
  assert refusal(folder / 'base', tmp_path / 'blocked', num_frames=20) == (
    f'{tmp_path}/blocked cannot be written to (File exists): choose a folder of your own.'
  )


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
  assert refusal(folder / 'base', tmp_path / 'out', num_frames=12, repeats=2) == (
    'window 2 of 2 has samples that are not finite; it was not written. Sample an earlier checkpoint, in '
    "model.dtype='float32', or with less guidance or sampling.reconstruction_weight."
  )
  assert json.loads((tmp_path / 'out/progress.json').read_text()) == {'done': 1}
  np.testing.assert_array_equal(videos(tmp_path / 'out')[:, :8], videos(tmp_path / 'whole')[:, :8])
  monkeypatch.setattr(long_video, 'make_window_sampler', SAMPLERS)
  command(folder / 'base', tmp_path / 'out', num_frames=12, repeats=2)
  np.testing.assert_array_equal(videos(tmp_path / 'out'), videos(tmp_path / 'whole'))


@pytest.mark.parametrize(
  ('read', 'text', 'message'),
  [
    *(
      (
        jobs.read_frame_rates,
        text,
        f'--frame_rates={text} is no list of frame rates: give the lowest first, such as 2,8,24.',
      )
      for text in ('2,x', '', '0,8', '2,inf')
    ),
    (jobs.read_frame_rate, '-1', '--fps=-1 is no frame rate: give frames per second, such as 24, or image.'),
    (jobs.read_size, '0x16', '--original_size=0x16 is no size: give height and width in pixels, such as 720x1280.'),
    (
      jobs.read_prompts,
      'none.txt',
      "--prompt_file=none.txt cannot be read ([Errno 2] No such file or directory: 'none.txt'): give a UTF-8 text "
      'file, one prompt a line.',
    ),
  ],
)
def test_text_that_is_no_value(read, text, message):
  with pytest.raises(InvalidInput, match=f'^{re.escape(message)}$'):
    read(text)


def test_the_command_ends_with_the_message_and_status_2(folder, tmp_path):
  arguments = [f'--workdir={folder / "base"}', f'--out={tmp_path / "out"}', '--num_frames=20', '--overlap=8']
  done = subprocess.run(
    [sys.executable, '-m', 'vdm_jax.main', '--mode=sample', *arguments], cwd=REPOSITORY, capture_output=True, text=True
  )
  assert done.returncode == 2
  assert done.stderr == 'error: overlap=8 must be below the 8 frames of a window: choose 1 to 7.\n'
  assert not list(tmp_path.iterdir())
