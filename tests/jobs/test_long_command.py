"""Long and conditional videos from the command line: every kind of request gives what it promises."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.html_pages import Page
from helpers.tiny_runs import BLOCK, CLIP, REPOSITORY, SAMPLERS, SECOND, SMALL, command, make_run, videos
from PIL import Image

from vdm_jax import data, jobs
from vdm_jax.errors import InvalidInput
from vdm_jax.generation import extension, hierarchy, interpolation, long_video, super_resolution
from vdm_jax.runs import Run
from vdm_jax.video import probe, read_video, transforms, write_gif, write_mp4


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> Path:
  """Runs: `base` and `untold` of 16x16, `small` of 8x8, and `second`, which makes the videos of `base` larger."""
  folder = tmp_path_factory.mktemp('runs')
  make_run(folder / 'base')
  make_run(folder / 'small', SMALL)
  make_run(folder / 'untold', {'model.scalars': ()})
  make_run(folder / 'second', SECOND | {'training.first_stage': str(folder / 'base')})
  return folder


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch):
  monkeypatch.setattr(long_video, 'make_window_sampler', SAMPLERS)
  SAMPLERS.stop = None


@pytest.fixture(scope='module')
def extended(runs, tmp_path_factory) -> Path:
  """Two videos of 20 frames from nothing."""
  return made_once(runs / 'base', tmp_path_factory.mktemp('out') / 'extended', num_frames=20, repeats=2)


@pytest.fixture(scope='module')
def cascaded(runs, tmp_path_factory) -> Path:
  """Two videos of 12 frames, in two windows of the first stage and two of the second."""
  return made_once(runs / 'second', tmp_path_factory.mktemp('out') / 'cascaded', num_frames=12, repeats=2)


def made_once(workdir: Path, out: Path, **asked) -> Path:
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(long_video, 'make_window_sampler', SAMPLERS)
    command(workdir, out, **asked)
  return out


def given(path: Path, video: np.ndarray) -> Path:
  np.save(path, video)
  return path


def smaller(video: np.ndarray) -> np.ndarray:
  """The means of squares of 2x2 pixels, in levels."""
  *lead, h, w, c = video.shape
  return video.reshape(*lead, h // 2, 2, w // 2, 2, c).mean((-4, -2))


def levels(a: np.ndarray, b: np.ndarray) -> int:
  """The largest difference."""
  return int(np.abs(a.astype(int) - b.astype(int)).max())


def shown(out: Path, side: int = 16) -> np.ndarray:
  """The videos of the gif files, uint8 [n t side side 1]; their pixels are enlarged there."""
  read = np.stack([read_video(path)[..., :1] for path in sorted(out.glob('*.gif'))])
  factor = read.shape[2] // side
  return read[:, :, ::factor, ::factor]


def test_the_first_block_is_what_the_plain_command_makes(runs, extended, tmp_path):
  command(runs / 'base', tmp_path / 'plain', repeats=2)
  assert levels(videos(extended)[:, :BLOCK], shown(tmp_path / 'plain')) <= 1
  first, second = videos(extended)
  assert np.abs(first.astype(int) - second).mean() > 10


def test_the_folder_holds_what_is_promised(extended):
  files = {f'000{i}.{kind}' for i in range(2) for kind in ('npy', 'mp4', 'gif')}
  files |= {'contact_sheet.png', 'plan.png', 'drift.png', 'drift.json', 'job.json', 'progress.json'}
  files |= {'index.html', 'videos.jsonl'}
  assert {file.name for file in extended.iterdir()} == files
  exact = videos(extended)
  assert exact.shape == (2, 20, 16, 16, 1) and exact.dtype == np.uint8
  np.testing.assert_array_equal(shown(extended), exact)
  for number in range(2):
    info = probe(extended / f'000{number}.mp4')
    assert info.num_frames == 20 and info.frame_rate == pytest.approx(8)
    lossy = smaller(smaller(smaller(read_video(extended / f'000{number}.mp4'))))[..., :1]
    assert np.abs(lossy - exact[number]).mean() < 8
  for name in ('plan.png', 'drift.png', 'contact_sheet.png'):
    with Image.open(extended / name) as picture:
      assert min(picture.size) > 100
  page = Page(extended / 'index.html')
  page.check_inert()
  assert page.files() == {file for file in files if file.endswith(('.npy', '.mp4', '.gif', '.png'))}
  plan = extension(20, BLOCK, overlap=4)
  assert json.loads((extended / 'job.json').read_text())['plan'] == json.loads(json.dumps(plan))
  assert json.loads((extended / 'progress.json').read_text()) == {'done': len(plan.windows)}


def test_the_drift_is_that_of_the_videos(extended):
  drift = json.loads((extended / 'drift.json').read_text())
  assert drift['block_starts'] == [0, 8, 12, 16] and drift['videos'].keys() == {'0000', '0001'}
  for name, record in drift['videos'].items():
    x = np.load(extended / f'{name}.npy') / 127.5 - 1
    assert record['frames'] == 20 and [seam['frame'] for seam in record['seams']] == [8, 12, 16]
    for block, (first, end) in zip(record['blocks'], itertools.pairwise([0, 8, 12, 16, 20]), strict=True):
      assert block['color_mean'] == pytest.approx([x[first:end].mean()])
      assert block['motion'] == pytest.approx(np.abs(np.diff(x[first:end], axis=0)).mean())
    for seam in record['seams']:
      assert seam['change'] == pytest.approx(np.abs(x[seam['frame']] - x[seam['frame'] - 1]).mean())


def test_the_plan_is_printed_before_anything_is_made(runs, tmp_path, capsys):
  SAMPLERS.stop = SAMPLERS.calls
  with pytest.raises(KeyboardInterrupt):
    command(runs / 'base', tmp_path / 'out', num_frames=20, overlap=2)
  assert capsys.readouterr().out == f'{extension(20, BLOCK, overlap=2)}\n'
  assert (tmp_path / 'out/plan.png').stat().st_size


def test_a_video_shorter_than_a_window_is_its_beginning(runs, extended, tmp_path):
  command(runs / 'base', tmp_path / 'short', num_frames=5, repeats=2)
  np.testing.assert_array_equal(videos(tmp_path / 'short'), videos(extended)[:, :5])
  command(runs / 'base', tmp_path / 'frame', num_frames=1, repeats=2)
  np.testing.assert_array_equal(videos(tmp_path / 'frame'), videos(extended)[:, :1])


@pytest.mark.parametrize('count', [3, 10])
def test_prediction_continues_the_first_frames_of_a_file(runs, count, tmp_path):
  made = {}
  for name, clip in {'clip': CLIP, 'negative': 255 - CLIP}.items():
    path = given(tmp_path / f'{name}.npy', clip)
    command(runs / 'base', tmp_path / name, init_video=path, init_frames=count, num_frames=14, repeats=2)
    made[name] = videos(tmp_path / name)
    assert made[name].shape == (2, 14, 16, 16, 1)
    for video in made[name]:
      np.testing.assert_array_equal(video[:count], clip[:count])
  ours, other = (made[name][:, count:].astype(int) for name in ('clip', 'negative'))
  assert np.abs(ours[0] - ours[1]).mean() > 10, 'every video has its own noise'
  assert np.abs(ours - other).mean() > 1, 'what is made depends on what is given'
  plan = extension(14, BLOCK, overlap=4, given=count)
  assert json.loads((tmp_path / 'clip/job.json').read_text())['plan'] == json.loads(json.dumps(plan))
  drift = json.loads((tmp_path / 'clip/drift.json').read_text())
  assert drift['videos']['0000']['blocks'][0]['name'] == 'given'


def test_prediction_from_a_video_takes_its_frames_and_its_rate(runs, tmp_path):
  write_gif(tmp_path / 'clip.gif', CLIP[:5], fps=10)
  command(runs / 'base', tmp_path / 'out', init_video=tmp_path / 'clip.gif', repeats=2)
  made = videos(tmp_path / 'out')
  np.testing.assert_array_equal(made[:, :5], [CLIP[:5]] * 2)  # all of them, in a window of the model
  assert made.shape[1] == BLOCK and probe(tmp_path / 'out/0000.mp4').frame_rate == pytest.approx(10)
  assert json.loads((tmp_path / 'out/job.json').read_text())['frame_rate'] == pytest.approx(10)


def test_a_users_clip_is_cut_and_its_frames_are_picked_as_in_training(runs, tmp_path, capsys):
  """A portrait clip of 24 frames per second, for square videos of 8."""
  clip = np.random.default_rng(1).integers(0, 256, (16, 6, 4, 1)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
  write_mp4(tmp_path / 'mine.mp4', clip, fps=24)
  asked = {'init_video': tmp_path / 'mine.mp4'}
  command(runs / 'untold', tmp_path / 'out', init_frames=5, num_frames=12, **asked)
  picked = read_video(tmp_path / 'mine.mp4')[[0, 3, 6, 9, 12]]
  middle = (0, 8, 32, 40)  # 32 of 48 rows
  scaled = [Image.fromarray(frame).resize((16, 16), Image.Resampling.BICUBIC, box=middle) for frame in picked]
  (made,) = videos(tmp_path / 'out')
  assert levels(made[:5], transforms.to_channels(np.stack(scaled), 1)) <= 1
  said = capsys.readouterr().err
  assert 'mine.mp4: frames of 48x32 scaled to cover 16x16; 5 of 16 frames picked, at 8 of its 24 per second.' in said
  assert 'scaled to cover' in (tmp_path / 'out/index.html').read_text()
  command(runs / 'untold', tmp_path / 'low', low_resolution=tmp_path / 'mine.mp4')
  assert videos(tmp_path / 'low').shape == (1, 6, 16, 16, 1)
  assert 'scaled to cover 8x8' in capsys.readouterr().err
  command(runs / 'untold', tmp_path / 'between', interpolate=2, init_frames=3, **asked)
  assert videos(tmp_path / 'between').shape == (1, 5, 16, 16, 1)  # 4 per second, every sixth frame
  np.testing.assert_array_equal(videos(tmp_path / 'between')[0, ::2][:2], videos(tmp_path / 'out')[0, [0, 2]])


def test_a_sampled_video_is_continued_from_its_exact_frames(runs, tmp_path):
  command(runs / 'base', tmp_path / 'short')
  exact = tmp_path / 'short/0000.npy'
  command(runs / 'base', tmp_path / 'longer', init_video=exact, num_frames=12)
  np.testing.assert_array_equal(videos(tmp_path / 'longer')[:, :BLOCK], videos(tmp_path / 'short'))


def test_test_clips_are_continued_under_their_own_names(runs, tmp_path):
  config = Run(runs / 'base').config
  command(runs / 'base', tmp_path, init_video='test', init_frames=4, num_frames=12, repeats=2, changes={'seed': 5})
  source = data.Digits(split='test', seed=5, num_frames=32, bounce=True)
  assert config['data']['digits']['clip_frames'] == 32
  for number, path in enumerate(sorted(tmp_path.glob('*.npy'))):
    whole, start = source[number], np.load(path)[:4]
    assert path.stem == f'000{number}-{whole.caption.replace(" ", "-")}'
    assert any((whole.video[first : first + 4] == start).all() for first in range(29))


@pytest.mark.parametrize('num_frames', [None, 15])
def test_interpolation_leaves_the_given_frames_alone(runs, num_frames, tmp_path):
  path = given(tmp_path / 'clip.npy', CLIP)
  out = tmp_path / 'out'
  command(runs / 'base', out, init_video=path, init_frames=5, interpolate=3, num_frames=num_frames, repeats=2)
  made = videos(out)
  plan = interpolation(5, 3, BLOCK, num_frames=num_frames)
  assert made.shape[1] == plan.num_frames == (num_frames or 13)
  for video in made:
    np.testing.assert_array_equal(video[:13:3], CLIP[:5])
  between = np.delete(made, range(0, 13, 3), axis=1).astype(int)
  assert np.abs(between[0] - between[1]).mean() > 10
  assert json.loads((out / 'job.json').read_text())['plan'] == json.loads(json.dumps(plan))


def test_a_file_is_made_larger_and_more_frequent(runs, extended, tmp_path):
  low = CLIP[:5, :8, :8]
  path, free = given(tmp_path / 'low.npy', low), smaller(videos(extended)[:, :13:3])
  command(runs / 'base', tmp_path / 'larger', low_resolution=path, repeats=2)
  command(runs / 'base', tmp_path / 'both', low_resolution=path, interpolate=3, repeats=2)
  larger, both = videos(tmp_path / 'larger'), videos(tmp_path / 'both')
  assert larger.shape == (2, 5, 16, 16, 1) and both.shape == (2, 13, 16, 16, 1)
  unguided = np.abs(free - low).mean()
  for made in (smaller(larger), smaller(both)[:, ::3]):
    assert np.abs(made - low).mean() < 0.5 * unguided
    assert np.abs(made - (255.0 - low)).mean() > 0.8 * unguided


def test_figure_2_is_one_command(runs, tmp_path):
  """VDM Fig. 2: a run of low resolution at a frame skip of 4, then larger and 4 times as frequent, by another."""
  out = tmp_path / 'out'
  before = len(SAMPLERS.keys)
  command(runs / 'base', out, low_resolution=runs / 'small', interpolate=4, num_frames=20, repeats=2)
  used = SAMPLERS.keys[before:]
  plan = super_resolution(5, BLOCK, factor=4, num_frames=20)
  assert len(used) == 1 + len(plan.windows) == len(set(used)), 'each window of each run draws its own noise'
  command(runs / 'small', tmp_path / 'small', num_frames=5, repeats=2)
  low = videos(out / 'low_resolution')
  np.testing.assert_array_equal(low, videos(tmp_path / 'small'))  # made as that run alone makes them
  made = videos(out)
  assert made.shape == (2, 20, 16, 16, 1)
  own, swapped = (np.abs(smaller(made)[:, ::4] - other).mean() for other in (low, low[::-1]))
  assert own < 0.5 * swapped
  records = [json.loads((folder / 'job.json').read_text()) for folder in (out, out / 'low_resolution')]
  assert [record['frame_rate'] for record in records] == [8, 2]
  assert records[0]['plan'] == json.loads(json.dumps(plan))


def test_a_hierarchy_begins_with_a_video_of_the_lowest_frame_rate(runs, tmp_path, monkeypatch):
  told = {}
  conditions = long_video.make_conditions

  def remember(*inputs, **options):
    of_window = conditions(*inputs, **options)
    return lambda window, *rest: told.setdefault(window.stride, of_window(window, *rest))

  monkeypatch.setattr(long_video, 'make_conditions', remember)
  command(runs / 'base', tmp_path / 'all', num_frames=17, frame_rates=(2.0, 8.0), repeats=2)
  np.testing.assert_allclose([told[stride].frame_interval for stride in (4, 1)], [[0.5] * 2, [0.125] * 2])
  monkeypatch.undo()
  monkeypatch.setattr(long_video, 'make_window_sampler', SAMPLERS)
  for rate in (2.0, 8.0):
    command(runs / 'base', tmp_path / f'{rate:g}', num_frames=5, frame_rate=rate, repeats=2)
  made = videos(tmp_path / 'all')
  assert made.shape[1] == 17
  np.testing.assert_array_equal(made[:, ::4], videos(tmp_path / '2'))
  assert np.abs(made[:, ::4].astype(int) - videos(tmp_path / '8')).mean() > 1, 'the model is told the frame rate'
  plan = hierarchy(17, (2, 8), BLOCK)
  assert json.loads((tmp_path / 'all/job.json').read_text())['plan'] == json.loads(json.dumps(plan))


def test_one_frame_of_a_hierarchy(runs, tmp_path):
  command(runs / 'base', tmp_path, num_frames=1, frame_rates=(2.0, 8.0), repeats=2)
  assert videos(tmp_path).shape == (2, 1, 16, 16, 1)
  assert json.loads((tmp_path / 'drift.json').read_text())['block_starts'] == [0]


def test_a_cascade_makes_each_stage_along_the_plan(runs, extended, cascaded, tmp_path):
  np.testing.assert_array_equal(videos(cascaded / 'first_stage'), videos(extended)[:, :12])
  made = videos(cascaded)
  assert made.shape == (2, 12, 32, 32, 1)
  command(runs / 'second', tmp_path, repeats=2)
  # The plain command hands on the first stage's videos before they are rounded to levels.
  assert levels(made[:, :BLOCK], shown(tmp_path, side=32)) <= 4


def test_a_cascade_continues_a_file_in_both_stages(runs, tmp_path):
  clip = CLIP.repeat(2, axis=1).repeat(2, axis=2)
  path = given(tmp_path / 'clip.npy', clip)
  command(runs / 'second', tmp_path / 'out', init_video=path, init_frames=4, num_frames=12, repeats=2)
  for video, small in zip(videos(tmp_path / 'out'), videos(tmp_path / 'out/first_stage'), strict=True):
    np.testing.assert_array_equal(video[:4], clip[:4])
    np.testing.assert_array_equal(small[:4], CLIP[:4])


def interrupted(*arguments, after: int, **request) -> None:
  """The command, stopped as its window number `after` is to be sampled."""
  SAMPLERS.stop = SAMPLERS.calls + after
  with pytest.raises(KeyboardInterrupt):
    command(*arguments, **request)
  SAMPLERS.stop = None


def windows_made(*arguments, **request) -> int:
  before = SAMPLERS.calls
  command(*arguments, **request)
  return SAMPLERS.calls - before


def test_what_was_made_is_not_made_again(runs, extended, tmp_path):
  asked = {'num_frames': 20, 'repeats': 2}
  interrupted(runs / 'base', tmp_path, after=2, **asked)
  assert json.loads((tmp_path / 'progress.json').read_text()) == {'done': 2}
  assert not videos(tmp_path)[:, 12:].any() and not (tmp_path / 'drift.json').exists()
  assert windows_made(runs / 'base', tmp_path, **asked) == 2
  np.testing.assert_array_equal(videos(tmp_path), videos(extended))
  sheet = (tmp_path / 'contact_sheet.png').read_bytes()
  assert sheet == (extended / 'contact_sheet.png').read_bytes()
  (tmp_path / 'contact_sheet.png').unlink()
  assert windows_made(runs / 'base', tmp_path, **asked) == 0
  assert (tmp_path / 'contact_sheet.png').read_bytes() == sheet


@pytest.mark.parametrize('after', [1, 3])
def test_both_stages_go_on_where_they_stopped(runs, cascaded, after, tmp_path):
  asked = {'num_frames': 12, 'repeats': 2}
  interrupted(runs / 'second', tmp_path, after=after, **asked)
  assert windows_made(runs / 'second', tmp_path, **asked) == 4 - after
  for folder in ('.', 'first_stage'):
    np.testing.assert_array_equal(videos(tmp_path / folder), videos(cascaded / folder))


def test_a_video_that_was_deleted_is_made_again(runs, extended, tmp_path):
  asked = {'num_frames': 20, 'repeats': 2}
  interrupted(runs / 'base', tmp_path, after=3, **asked)
  (tmp_path / '0001.npy').unlink()
  assert windows_made(runs / 'base', tmp_path, **asked) == 4
  np.testing.assert_array_equal(videos(tmp_path), videos(extended))


def test_a_run_trained_anew_in_place_is_another(runs, extended, cascaded, tmp_path):
  for folder in (runs / 'base', runs / 'second', extended, cascaded):
    shutil.copytree(folder, tmp_path / folder.name)
  config = (runs / 'second/config.json').read_text()
  (tmp_path / 'second/config.json').write_text(config.replace(str(runs / 'base'), str(tmp_path / 'base')))
  commands = {
    'base': ('extended', {'num_frames': 20, 'repeats': 2}),
    'second': ('cascaded', {'num_frames': 12, 'repeats': 2}),
  }
  for name, (out, asked) in commands.items():
    assert windows_made(tmp_path / name, tmp_path / out, **asked) == 0, 'copies of the runs are the same runs'
  with pytest.raises(InvalidInput, match=f'--out={tmp_path / "extended"} holds a long video'):
    command(tmp_path / 'base', tmp_path / 'extended', repeats=2)
  before = videos(tmp_path / 'extended')
  shutil.rmtree(tmp_path / 'base')
  make_run(tmp_path / 'base', seed=1)
  shutil.rmtree(tmp_path / 'cascaded/first_stage')
  for name, (out, asked) in commands.items():
    with pytest.raises(InvalidInput, match=f'--out={tmp_path / out} holds other work, which differs in weights'):
      command(tmp_path / name, tmp_path / out, **asked)
  np.testing.assert_array_equal(videos(tmp_path / 'extended'), before)


FLAGS = (
  '--prompt=a 3',
  '--label=4',
  '--num_videos=2',
  '--fps=12',
  '--original_size=72x128',
  '--num_frames=20',
  '--init_video=test',
  '--init_frames=3',
  '--interpolate=4',
  '--low_resolution=runs/small',
  '--frame_rates=2,8,24',
  '--overlap=5',
)
READ = 'import sys; from absl import flags; from vdm_jax import main; flags.FLAGS(sys.argv); print(main._request())'


@pytest.mark.parametrize(
  ('given', 'request_'),
  [
    (FLAGS, jobs.Request(['a 3'], [4], 2, 12.0, (72, 128), 20, 'test', 3, 4, 'runs/small', (2.0, 8.0, 24.0), 5)),
    ((), jobs.Request([], [], 4)),
  ],
)
def test_every_flag_reaches_the_request(given, request_):
  """In a process of its own: other commands define flags of the same names."""
  read = subprocess.run([sys.executable, '-c', READ, *given], cwd=REPOSITORY, capture_output=True, text=True)
  assert read.stdout.strip() == repr(request_), read.stderr


def windows_done(out: Path) -> int:
  file = out / 'progress.json'
  return json.loads(file.read_text())['done'] if file.exists() else 0


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_leaves_the_same_bytes(runs, tmp_path):
  out, whole = tmp_path / 'out', tmp_path / 'whole'
  total = 2 * len(extension(72, BLOCK, overlap=6).windows)  # one video at a time
  asked = ['--num_frames=72', '--overlap=6', '--num_videos=2', '--seed=3']
  workdir = f'--workdir={runs / "base"}'
  arguments = [sys.executable, '-m', 'vdm_jax.main', '--mode=sample', workdir, f'--out={out}', *asked]
  process = subprocess.Popen(arguments, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
  try:
    while process.poll() is None and windows_done(out) < 3:
      time.sleep(0.002)
  finally:
    process.kill()
  said = process.communicate()[1]
  assert process.returncode == -9, said
  assert 3 <= (made := windows_done(out)) < total
  assert not (out / 'contact_sheet.png').exists()
  again = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True)
  assert again.returncode == 0, again.stderr
  bars = re.findall(r'([\d.]+) of (\d+) windows \[', again.stderr)
  assert bars[0] == (f'{made}.0', str(total)), 'it begins with what was made'
  command(runs / 'base', whole, num_frames=72, overlap=6, repeats=2, changes={'seed': 3}, batch_size=1)
  for name in ('0000.npy', '0001.npy', '0000.mp4', '0001.mp4', '0000.gif', 'contact_sheet.png', 'drift.json'):
    assert (out / name).read_bytes() == (whole / name).read_bytes(), name
