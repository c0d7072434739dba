from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from helpers.clip_files import make_clip
from helpers.messages import naming, raises
from PIL import Image

from vdm_jax import data
from vdm_jax.data import __main__ as command
from vdm_jax.data import captioning

MODULE = """
import os, time
import numpy as np

def describe(frames):
  assert frames.dtype == np.uint8 and frames.shape[1:] == (16, 24, 3), frames.shape
  return f'sum  {int(frames.astype(int).sum())} of {len(frames)}'

def fails_on_one(frames):
  if len(frames) == 6:
    raise KeyError('six')
  return describe(frames)

def numbers(frames):
  return 7

def empty(frames):
  return ' '

def slow(frames):
  time.sleep(0.05)
  return describe(frames)

constant = 3
"""


@pytest.fixture
def clips(tmp_path, monkeypatch):
  """Six clips of 4 to 9 frames, of which the first two have a text file."""
  (root := tmp_path / 'clips').mkdir()
  for i in range(6):
    np.save(root / f'{i}.npy', make_clip(i, num_frames=4 + i))
  (root / '0.txt').write_text('written  by hand')
  (root / '1.txt').write_text('')
  (tmp_path / 'describer.py').write_text(textwrap.dedent(MODULE))
  monkeypatch.syspath_prepend(tmp_path)
  yield root
  sys.modules.pop('describer', None)


def run(capsys, *arguments):
  status = command.main(['caption', *map(str, arguments)])
  shown = capsys.readouterr()
  return status, shown.out, shown.err


def expected(i, most=32):
  clip = make_clip(i, num_frames=4 + i)
  places = np.floor(np.arange(min(len(clip), most)) * (len(clip) - 1) / max(1, min(len(clip), most) - 1) + 0.5)
  return f'sum {clip[places.astype(int)].astype(int).sum()} of {len(places)}'


def test_missing_captions_are_added_and_none_is_replaced(clips, capsys):
  before = {file.name: file.read_bytes() for file in clips.iterdir()}
  status, out, _ = run(capsys, clips, '--captioner=describer:describe', '--max_frames=6')
  assert (status, out) == (0, f'{clips}: 5 captions made by describer:describe, 0 clips left without a caption\n')
  source = data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True)
  assert [source.caption(i) for i in range(6)] == ['written by hand', *(expected(i, 6) for i in range(1, 6))]
  assert [source.caption_origin(i) for i in range(6)] == ['provided', *['describer:describe'] * 5]
  lines = [json.loads(line) for line in (clips / 'captions.jsonl').read_text().splitlines()]
  assert len(lines[0].pop('file_hash')) == 64
  assert lines[0] == {'file_name': '1.npy', 'text': expected(1, 6), 'text_origin': 'describer:describe'}
  assert {file.name: file.read_bytes() for file in clips.iterdir() if file.name != 'captions.jsonl'} == before
  (clips / '2.txt').write_text('corrected')
  assert data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True).caption(2) == 'corrected'
  assert run(capsys, clips, '--captioner=describer:numbers')[:2] == (
    0,
    f'{clips}: 0 captions made by describer:numbers, 0 clips left without a caption\n',
  )
  np.save(clips / '3.npy', make_clip(5, num_frames=9))  # another clip under an old name
  made = run(capsys, clips, '--captioner=describer:describe', '--max_frames=6')[1]
  assert made == f'{clips}: 1 captions made by describer:describe, 0 clips left without a caption\n'
  replaced = data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True)
  assert [replaced.caption(i) for i in (1, 3, 5)] == [expected(1, 6), expected(5, 6), expected(5, 6)]
  command.main(['inspect', str(clips), '--num_frames=1', '--sheet='])
  shown = capsys.readouterr().out
  assert '\n  2 provided with the clips\n  4 by describer:describe\nlabels: none' in shown


def test_captions_of_metadata_take_precedence(clips, capsys):
  lines = [{'file_name': f'{i}.npy', 'text': f'listed {i}' if i % 2 else ''} for i in range(6)]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (clips / 'metadata.jsonl').write_text(text)
  assert run(capsys, clips, '--captioner=describer:describe')[0] == 0
  source = data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True)
  assert [source.caption(i) for i in range(6)] == [f'listed {i}' if i % 2 else expected(i) for i in range(6)]
  assert (clips / 'metadata.jsonl').read_text() == text


def test_images_are_captioned_too(tmp_path, clips):
  Image.fromarray(make_clip(3, num_frames=1)[0]).save(tmp_path / 'cat.png')
  source = data.StoredClips(data.Pictures(tmp_path), 'train', num_frames=1)
  assert captioning.caption(source, lambda frames: f'{frames.shape}', 'me') == (1, {})
  assert data.StoredClips(data.Pictures(tmp_path), 'train', num_frames=1).caption(0) == '(1, 16, 24, 3)'


def test_failures_are_named_and_the_other_clips_captioned(clips, capsys):
  (clips / '5.npy').write_bytes(b'no array')
  status, out, _ = run(capsys, clips, '--captioner=describer:fails_on_one')
  assert status == 1
  first, *reasons = out.splitlines()
  assert first == f'{clips}: 3 captions made by describer:fails_on_one, 2 clips left without a caption'
  assert reasons[0] == f"  {clips}/2.npy: describer:fails_on_one failed (KeyError: 'six')."
  assert reasons[1].startswith(f'  {clips}/5.npy: ')
  assert run(capsys, clips, '--captioner=describer:describe')[1].startswith(f'{clips}: 1 captions made')


def test_a_broken_captioner_stops(clips, capsys, monkeypatch):
  monkeypatch.setattr(captioning, 'FAILURES_IN_A_ROW', 3)
  for name, reason in [
    ('numbers', 'TypeError: it returned int'),
    ('empty', 'ValueError: it returned an empty caption'),
  ]:
    status, out, err = run(capsys, clips, f'--captioner=describer:{name}')
    assert (status, out) == (2, '')
    assert re.match(naming(f'error: describer:{name}', '3 clips in a row', f'{clips}/3.npy', reason), err)
  assert not (clips / 'captions.jsonl').exists()


def test_a_killed_run_is_continued(clips):
  arguments = [sys.executable, '-m', 'vdm_jax.data', 'caption', str(clips), '--captioner=describer:slow']
  paths = os.pathsep.join([os.path.dirname(clips), *sys.path])
  process = subprocess.Popen(arguments, env=os.environ | {'PYTHONPATH': paths}, stdout=subprocess.DEVNULL)
  file, deadline = clips / 'captions.jsonl', time.monotonic() + 60
  while time.monotonic() < deadline and not (file.exists() and file.stat().st_size):
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.wait()
  whole = file.read_bytes()
  file.write_bytes(whole + b'{"file_name": "4.npy", "te')  # as if it were killed while writing
  done = len(data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True).source._generated)
  assert 1 <= done < 5
  seen = []
  source = data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True)
  made, failures = captioning.caption(source, lambda frames: seen.append(frames) or f'now {len(seen)}', 'me')
  assert (made, failures, len(seen)) == (5 - done, {}, 5 - done)
  after = data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True)
  assert file.read_bytes().startswith(whole)
  assert [after.caption(i) for i in range(1, 6)] == [
    *(expected(i) for i in range(1, 1 + done)),
    *(f'now {n}' for n in range(1, 6 - done)),
  ]


def test_two_captioners_at_once_are_refused(clips):
  source = data.StoredClips(data.Folder(clips), 'train', num_frames=1, train_on_all=True)

  def again(frames):
    with raises(ValueError, 'captions.jsonl', 'another process'):
      captioning.caption(source, again, 'second')
    return 'first'

  assert captioning.caption(source, again, 'first') == (5, {})


def test_a_damaged_line_is_named(clips):
  (clips / 'captions.jsonl').write_text('{"file_name": "4.npy"}\n')
  with raises(ValueError, f'{clips}/captions.jsonl, line 1'):
    data.Folder(clips)


@pytest.mark.parametrize(
  ('captioner', 'reason'),
  [
    ('describer', 'module:function'),
    ('describer:missing', "AttributeError: module 'describer' has no attribute 'missing'"),
    ('nowhere:describe', "ModuleNotFoundError: No module named 'nowhere'"),
    ('describer:constant', 'int'),
    ('os; print:x', 'module:function'),
  ],
)
def test_an_invalid_captioner(clips, capsys, captioner, reason):
  status, out, err = run(capsys, clips, f'--captioner={captioner}')
  assert (status, out) == (2, '') and re.match(naming(f'error: --captioner={captioner}', reason), err)


def test_captions_need_a_folder(clips, tmp_path, capsys):
  np.save(tmp_path / 'clips.npy', np.zeros((3, 4, 16, 24, 3), np.uint8))
  status, _, err = run(capsys, tmp_path / 'clips.npy', '--captioner=describer:describe')
  assert status == 2 and err.startswith(f'error: {tmp_path}/clips.npy: ')
  assert run(capsys, clips, '--captioner=describer:describe', '--max_frames=0')[0] == 2
