from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from helpers.clip_files import encode, make_clip, prepare_tfds
from helpers.messages import naming
from PIL import Image

from vdm_jax import data
from vdm_jax.data import __main__ as command
from vdm_jax.data.inspection import COMBED, inspect
from vdm_jax.data.quarantine import Quarantine, Substituting
from vdm_jax.data.sources import catalog
from vdm_jax.video import write_gif, write_mp4

BAD = {0: 'text', 3: 'damaged', 5: 'short'}


def frames_of(i):
  return {3: 36, 5: 3}.get(i, 8 + i % 2)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """Twenty clips of two lengths, sizes and frame rates, of which three are unusable."""
  root = tmp_path_factory.mktemp('inspected') / 'clips'
  for i in range(20):
    height = 16 if i % 4 else 96
    write_gif(root / f'{i:02}.gif', make_clip(i, num_frames=frames_of(i), height=height), fps=10 if i < 8 else 20)
    if i != 7:
      (root / f'{i:02}.txt').write_text(f'A ball {i % 4}')
  (root / '00.gif').write_text('no video')
  patches = np.random.default_rng(0).integers(0, 256, (36, 4, 4, 3)).astype(np.uint8).repeat(16, 1).repeat(16, 2)
  write_mp4(root / '03.gif', patches, fps=10)  # an mp4 by its content, which decides
  content = (root / '03.gif').read_bytes()
  end = content.find(b'moov') - 400
  (root / '03.gif').write_bytes(content[:end] + b'\xa5' * 200 + content[end + 200 :])
  return root


def run(capsys, *arguments):
  status = command.main([str(argument) for argument in arguments])
  shown = capsys.readouterr()
  return status, shown.out, shown.err


def test_the_counts_are_those_of_the_clips(clips):
  found, sheet = inspect(str(clips), num_frames=4, frame_skip=2, max_bad_share=0.15)
  assert found.problem is None
  assert found.usable == [i for i in range(20) if i not in BAD]
  assert found.short == [f'{clips}/05.gif: 3 frames, but 7 are needed']
  assert [reason.split(':')[0] for reason in found.corrupt] == [f'{clips}/00.gif', f'{clips}/03.gif']
  test = data.StoredClips(data.Folder(clips), 'test', num_frames=1).names
  for split in ('train', 'test'):
    chosen = [i for i in range(20) if (f'{i:02}.gif' in test) == (split == 'test')]
    assert found.splits[split] == len(chosen)
    assert found.windows[split] == sum(frames_of(i) - 6 for i in chosen if i not in BAD)
  assert sheet.dtype == np.uint8
  quick, _ = inspect(str(clips), num_frames=4, frame_skip=2, max_bad_share=0.1, decode=False)
  assert [reason.split(':')[0] for reason in quick.corrupt] == [f'{clips}/00.gif']


def test_the_report(tmp_path, clips, capsys):
  sheet = tmp_path / 'sheet.png'
  options = ('--num_frames=4', '--frame_skip=2', f'--sheet={sheet}')
  status, out, err = run(capsys, 'inspect', clips, *options, '--max_bad_share=0.15')
  assert (status, err) == (0, '')
  test = len(data.StoredClips(data.Folder(clips), 'test', num_frames=1).names)
  lines = out.splitlines()
  assert lines[:5] == [
    f'data.name=folder data.path={clips}',
    f'clips: 20 ({20 - test} train, {test} test), 17 usable, 1 short, 2 corrupt (opened, first and last window '
    'decoded)',
    f'  {clips}/05.gif: 3 frames, but 7 are needed',
    f'  {clips}/00.gif: cannot be decoded as a video (End of file); re-encode or remove the file.',
    f'  {clips}/03.gif: cannot be decoded as a video (Invalid data found when processing input); re-encode or remove '
    'the file.',
  ]
  assert lines[5:10] == [
    'frames per clip:',
    f'{"3":>22} {1:>8} ####',
    f'{"8":>22} {9:>8} {"#" * 40}',
    f'{"9":>22} {8:>8} {"#" * 36}',
    f'{"36":>22} {1:>8} ####',
  ]
  assert lines[13:17] == [
    'height x width:',
    f'{"16x24":>22} {14:>8} {"#" * 40}',
    f'{"96x24":>22} {4:>8} {"#" * 11}',
    f'{"64x64":>22} {1:>8} ###',
  ]
  assert lines[17] == (
    'captions: 18 of 19 clips have one, 4 distinct captions, 3 words each, 3.0 on average, 6 distinct words'
  )
  assert lines[-2:] == ['training can start', f'contact sheet: {sheet}']
  assert 'labels: none' in lines
  with Image.open(sheet) as image:
    assert image.width > 8 * 24
    assert image.height > 16 * 30


@pytest.mark.parametrize(
  ('options', 'reasons'),
  [
    (['--num_frames=4'], ('3 of 20 clips', 'max_bad_share=0.05')),
    (['--num_frames=40', '--max_bad_share=1'], ('train split',)),
  ],
)
def test_status_1_if_training_could_not_start(clips, capsys, options, reasons):
  status, out, _ = run(capsys, 'inspect', clips, '--sheet=', *options)
  assert status == 1
  assert re.match(naming('training cannot start: ', *reasons), out.splitlines()[-1])
  config = [option.lstrip('-').split('=') for option in options]
  settings = {'num_frames': int(config[0][1])}
  source = data.StoredClips(data.Folder(clips), 'train', **settings)
  with pytest.raises(data.TooManyBadClips):
    substituting = Substituting(source, 0, Quarantine(str(clips), 20, float(dict(config).get('max_bad_share', 0.05))))
    for i in range(len(source)):
      substituting.read(i, np.random.default_rng(0), settings['num_frames'])


def test_an_empty_folder_and_unknown_frame_rates(tmp_path, capsys):
  (tmp_path / 'empty').mkdir()
  status, out, _ = run(capsys, 'inspect', tmp_path / 'empty')
  assert status == 1
  assert out.startswith(f"training cannot start: data.path='{tmp_path}/empty' ") and out.count('\n') == 1
  (tmp_path / 'clips').mkdir()
  for i in range(9):
    np.save(tmp_path / 'clips' / f'{i}.npy', make_clip(i))
  status, out, _ = run(capsys, 'inspect', tmp_path / 'clips', '--num_frames=2', '--sheet=')
  assert status == 1
  assert re.match(naming('training cannot start: 9 clips', '--frame_rate', 'data.frame_rate'), out.splitlines()[-1])
  assert run(capsys, 'inspect', tmp_path / 'clips', '--num_frames=2', '--sheet=', '--frame_rate=8')[0] == 0


@pytest.mark.parametrize('kind', ['array', 'records', 'tfds'])
def test_the_kind_of_data_is_recognized(tmp_path, capsys, kind):
  clips = [make_clip(i) for i in range(12)]
  path = tmp_path / 'clips.npy'
  np.save(path, np.stack(clips))
  if kind == 'records':
    status, out, _ = run(capsys, 'convert', path, tmp_path / 'out', '--clips_per_shard=5', '--frame_rate=8')
    assert (status, out) == (
      0,
      ''.join(f'clips-{i:05d}-of-00003.array_record: {n} clips\n' for i, n in enumerate((5, 5, 2)))
      + f'train with --config.data.name=records --config.data.path={tmp_path}/out\n',
    )
    path = tmp_path / 'out'
  if kind == 'tfds':
    path = prepare_tfds(tmp_path, 'ucf101', {'train': clips[:9], 'test': clips[9:]})
    capsys.readouterr()  # the output of TFDS
  status, out, _ = run(capsys, 'inspect', path, '--num_frames=5', '--frame_rate=8', '--sheet=')
  assert status == 0
  assert out.startswith(f'data.name={kind} data.path={path}\nclips: 12 (')
  assert sum(map(int, re.search(r'windows of .*: (\d+) train, (\d+) test', out).groups())) == 12 * 3
  assert ('labels: 3 classes, 4 clips each' in out) == (kind == 'tfds')


@pytest.mark.parametrize(
  ('arguments', 'named'),
  [
    (['convert', 'missing', 'out'], ("data.path='missing'",)),
    (['convert', 'missing', 'out', '--clips_per_shard=0'], ('--clips_per_shard=0',)),
    (['inspect', 'picture:missing'], ("KIND:PATH='picture:missing'", 'folder, array, records', "'pictures'")),
    (['convert', 'nothing:missing', 'out'], ("'nothing'", 'folder, array, records')),
    (['inspect', 'missing', '--num_frames=0'], ('--num_frames=0', '--frame_skip=1')),
  ],
)
def test_status_2_for_invalid_input(tmp_path, monkeypatch, capsys, arguments, named):
  monkeypatch.chdir(tmp_path)
  status, out, err = run(capsys, *arguments)
  assert (status, out) == (2, '')
  assert re.match(naming('error: ', *named), err)
  assert os.listdir(tmp_path) == []


def test_a_sheet_is_written_only_if_it_is_named(tmp_path, clips, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  status, out, _ = run(capsys, 'inspect', f'folder:{clips}', '--num_frames=4', '--max_bad_share=0.15')
  assert status == 0 and out.startswith(f'data.name=folder data.path={clips}\n')
  assert os.listdir(tmp_path) == [] and 'contact sheet' not in out


def test_help_lists_every_kind_of_stored_clips(capsys):
  with pytest.raises(SystemExit):
    command.main(['--help'])
  shown = capsys.readouterr().out
  for name, kind in catalog.KINDS.items():
    assert bool(re.search(rf'^  {name} +The (clips|images) ', shown, re.MULTILINE)) == (kind.source is not None)


def test_sizes(tmp_path, capsys):
  (tmp_path / 'clips').mkdir()
  np.save(tmp_path / 'clips' / 'a.npy', make_clip(0))
  for size in ('64', '0x4', '-1x4', '4x4x4'):
    status, _, err = run(capsys, 'convert', tmp_path / 'clips', tmp_path / 'out', f'--size={size}')
    assert status == 2 and err.startswith(f'error: --size={size} ')
  assert run(capsys, 'convert', tmp_path / 'clips', tmp_path / 'out', '--size=8x12')[0] == 0
  (line,) = (tmp_path / 'out' / 'clips-00000-of-00001.jsonl').read_text().splitlines()
  assert (json.loads(line)['size'], json.loads(line)['resolution']) == ([8, 12], [16, 24])


def test_unusual_pictures_are_counted_with_what_is_made_of_them(tmp_path, capsys):
  """A bar whose two fields show it at different places, marked as interlaced or not."""
  frames = np.zeros((10, 32, 96, 3), np.uint8)
  for number, frame in enumerate(frames):
    frame[1::2, 8 * number : 8 * number + 12] = 220
    frame[::2, 8 * number + 4 : 8 * number + 16] = 220
  clips = tmp_path / 'clips'
  clips.mkdir()
  encode(clips / 'combed.mp4', frames, 'libx264', 'yuv420p', qp='0')
  encode(clips / 'marked.mp4', frames, 'libx264', 'yuv420p', qp='0', flags='+ilme+ildct')
  encode(clips / 'plain.mp4', frames[:, 1::2].repeat(2, 1), 'libx264', 'yuv420p', qp='0')
  found, _ = inspect(str(clips), num_frames=1, max_bad_share=1.0)
  assert found.notes == {COMBED: ['combed.mp4'], 'interlaced': ['marked.mp4']}
  status, out, _ = run(capsys, 'inspect', clips, '--num_frames=4')
  assert status == 0
  assert 'interlaced: 1 clips, such as marked.mp4; deinterlaced' in out
  assert re.search('not marked as interlaced.*: 1 clips, such as combed.mp4; .*ffmpeg .*bwdif', out)
  assert os.listdir(tmp_path) == ['clips'] and len(os.listdir(clips)) == 3
