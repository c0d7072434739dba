"""Short samples: which files a request writes, which it leaves, and how a video is made again."""

from __future__ import annotations

import functools
import json
import re

import numpy as np
import pytest
from helpers.html_pages import Page
from helpers.tiny_runs import SMALL, command, make_run, videos

from vdm_jax import generation
from vdm_jax.errors import InvalidInput
from vdm_jax.generation import gallery, stages
from vdm_jax.video import probe, read_video

LABELS = SMALL | {'data.labels': True, 'model.num_classes': 4, 'sampling.num_steps': 2}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('short') / 'run', LABELS)


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch):
  made = {}

  def make_generator(model, sampling, **options):
    key = json.dumps([model.config, dict(sampling), options], default=str, sort_keys=True)
    return made[key] if key in made else made.setdefault(key, make(model, sampling, **options))

  make = generation.make_generator
  monkeypatch.setattr(stages.generation, 'make_generator', functools.wraps(make)(make_generator))


def names(folder, *kinds):
  return sorted(file.name for file in folder.iterdir() if file.suffix.removeprefix('.') in kinds)


def test_a_video_is_made_again_alone(workdir, tmp_path):
  command(workdir, tmp_path / 'all', labels=[1, 2], repeats=2)
  command(workdir, tmp_path / 'one', labels=[2], repeats=1, first_video=3)
  assert names(tmp_path / 'one', 'npy') == ['0003-class-2.npy']
  for kind in ('npy', 'mp4', 'gif'):
    again, before = (tmp_path / folder / f'0003-class-2.{kind}' for folder in ('one', 'all'))
    assert again.read_bytes() == before.read_bytes()
  command(workdir, tmp_path / 'guided', labels=[2], first_video=3, changes={'sampling.guidance_weight': 3.0})
  changed = np.abs(videos(tmp_path / 'guided')[0].astype(int) - videos(tmp_path / 'one')[0])
  assert changed.max() > 0, 'another weight, the same noise'
  page = Page(tmp_path / 'all/index.html')
  assert [text for text in page.texts['span'] if text.isdigit()] == ['0', '1', '2', '3']
  assert any('--first_video=N' in text for text in page.texts['p'])
  listed = [json.loads(line) for line in (tmp_path / 'all/videos.jsonl').read_text().splitlines()]
  assert [line['number'] for line in listed] == [0, 1, 2, 3]


def test_every_prompt_gets_a_video_of_every_seed(workdir, tmp_path):
  command(workdir, tmp_path / 'seeds', labels=[1, 2], seeds=(5, 9))
  made = videos(tmp_path / 'seeds')
  for label, seed, video in ((1, 5, made[0]), (1, 9, made[1]), (2, 5, made[2]), (2, 9, made[3])):
    command(workdir, tmp_path / f'{label}_{seed}', labels=[label], changes={'seed': seed})
    np.testing.assert_array_equal(videos(tmp_path / f'{label}_{seed}')[0], video)
  listed = [json.loads(line) for line in (tmp_path / 'seeds/videos.jsonl').read_text().splitlines()]
  assert [line['seed'] for line in listed] == [5, 9, 5, 9]
  page = Page(tmp_path / 'seeds/index.html')
  assert [text for text in page.texts['span'] if 'seed' in text] == ['seed 5', 'seed 9'] * 2
  assert 'with seed 5, 9.' in page.texts['p'][0]


def test_a_smaller_request_removes_the_files_of_a_larger_one_but_none_of_the_users(workdir, tmp_path, capsys):
  out = tmp_path / 'out'
  command(workdir, out, labels=[1], repeats=4)
  (out / 'notes.txt').write_text('mine')
  (out / '0009-class-1.mp4').write_bytes(b'mine too')
  (out / '0003-class-1.gif').write_bytes(b'edited')
  capsys.readouterr()
  command(workdir, out, labels=[1], repeats=2)
  assert '5 files of the earlier request' in capsys.readouterr().err
  assert names(out, 'npy') == ['0000-class-1.npy', '0001-class-1.npy']
  assert names(out, 'mp4', 'txt') == ['0000-class-1.mp4', '0001-class-1.mp4', '0009-class-1.mp4', 'notes.txt']
  assert (out / '0003-class-1.gif').read_bytes() == b'edited'
  assert Page(out / 'index.html').files() == {
    *names(out, 'npy'),
    'contact_sheet.png',
    *(f'000{i}-class-1.{kind}' for i in range(2) for kind in ('mp4', 'gif')),
  }


def test_an_interrupted_request_removes_nothing_and_its_files_are_known(workdir, tmp_path, monkeypatch):
  command(workdir, tmp_path, labels=[1], repeats=2)
  write = generation.short_sample.write_sample

  def interrupted(video, stem, *options):
    if stem.name.startswith('0001'):
      raise KeyboardInterrupt
    return write(video, stem, *options)

  monkeypatch.setattr(generation.short_sample, 'write_sample', interrupted)
  with pytest.raises(KeyboardInterrupt):
    command(workdir, tmp_path, labels=[2], repeats=2)
  assert names(tmp_path, 'npy') == ['0000-class-1.npy', '0000-class-2.npy', '0001-class-1.npy']
  monkeypatch.undo()
  command(workdir, tmp_path, labels=[3])
  assert names(tmp_path, 'npy') == ['0000-class-3.npy']


def test_short_and_long_videos_do_not_share_a_folder(workdir, tmp_path):
  command(workdir, tmp_path / 'short', labels=[1])
  with pytest.raises(InvalidInput, match=f'^--out={re.escape(str(tmp_path))}/short '):
    command(workdir, tmp_path / 'short', labels=[1], num_frames=12)
  (tmp_path / 'long').mkdir()
  (tmp_path / 'long/job.json').write_text('{}')
  with pytest.raises(InvalidInput, match=f'^--out={re.escape(str(tmp_path))}/long '):
    command(workdir, tmp_path / 'long', labels=[1])


def test_formats_and_high_frame_rates(workdir, tmp_path):
  changes = {'sampling.fps': 240}
  command(workdir, tmp_path, labels=[1], formats=('webm', 'gif'), changes=changes)
  assert names(tmp_path, 'mp4', 'gif', 'webm', 'npy') == ['0000-class-1.gif', '0000-class-1.webm']
  info = probe(tmp_path / '0000-class-1.webm')
  assert info.num_frames == 8 and info.frame_rate == pytest.approx(240, rel=0.01)  # WebM counts milliseconds
  # 8 frames at 240 per second last 1/30 s: frames 0 and 5 of them at 50 per second.
  assert len(read_video(tmp_path / '0000-class-1.gif')) == 2
  page = Page(tmp_path / 'index.html')
  assert page.all('video')[0]['src'] == './0000-class-1.webm' and 'data-gif' in page.all('video')[0]
  for fps in (0, 1001):
    with pytest.raises(InvalidInput, match=f'^sampling.fps={fps:g} .* 1000'):
      command(workdir, tmp_path / 'out', labels=[1], changes={'sampling.fps': fps})
  assert not (tmp_path / 'out').exists(), 'nothing is written before the frame rate is checked'


def test_seeds_of_more_bits_than_are_used_and_options_without_effect_are_refused(workdir, tmp_path):
  for request, changes, message in (
    ({}, {'seed': 2**32}, '^the seed 4294967296 '),
    ({'seeds': (1, 2**40)}, {}, '^the seed 1099511627776 '),
    ({'fit': 'contain'}, {}, '^--fit=contain '),
  ):
    with pytest.raises(InvalidInput, match=message):
      command(workdir, tmp_path / 'out', labels=[1], changes=changes, **request)
  assert not (tmp_path / 'out').exists()


def test_guidance_that_saturates_or_ignores_the_label_is_said(workdir, tmp_path):
  extreme = {'sampling.guidance_weight': 1000.0, 'sampling.threshold': 'none'}
  with pytest.warns(UserWarning, match='outside .* sampling.guidance_weight=1000'):
    command(workdir, tmp_path / 'extreme', labels=[1], changes=extreme)
  for label in (1, 2):
    with pytest.warns(UserWarning, match='sampling.guidance_weight=-1 is below 0'):
      command(workdir, tmp_path / f'{label}', labels=[label], changes={'sampling.guidance_weight': -1.0})
  np.testing.assert_allclose(videos(tmp_path / '1').astype(int), videos(tmp_path / '2').astype(int), atol=1)


def test_the_last_label_is_checked_before_the_first_video(workdir, tmp_path):
  with pytest.raises(InvalidInput, match='label 4 '):
    command(workdir, tmp_path / 'out', labels=[1, 2, 4])
  assert not (tmp_path / 'out').exists()


def test_many_videos_are_shown_on_several_pages(workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(gallery, 'PER_PAGE', 2)
  command(workdir, tmp_path, labels=[1], repeats=5, formats=('gif',))
  shown = [Page(tmp_path / name).files() for name in ('index.html', 'index_2.html', 'index_3.html')]
  assert [sorted(file for file in page if file.startswith('000')) for page in shown] == [
    ['0000-class-1.gif', '0001-class-1.gif'],
    ['0002-class-1.gif', '0003-class-1.gif'],
    ['0004-class-1.gif'],
  ]
  assert {'index_2.html', 'index_3.html'} <= shown[0]
  command(workdir, tmp_path, labels=[1], repeats=2, formats=('gif',))
  assert names(tmp_path, 'html') == ['index.html']
