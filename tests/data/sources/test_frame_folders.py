from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
from PIL import Image

from vdm_jax import data
from vdm_jax.data.sources import frame_folders


def raises(message):
  return pytest.raises(ValueError, match=f'^{re.escape(message)}$')


def write(folder, names, size=(4, 6)):
  folder.mkdir(parents=True, exist_ok=True)
  for i, name in enumerate(names):
    Image.fromarray(np.full((*size, 3), 10 * i, np.uint8)).save(folder / name)


def read(folder, start=0, num_frames=2, frame_skip=1, max_bytes=2**20):
  return frame_folders.read_frames(
    folder, folder.parent, start=start, num_frames=num_frames, frame_skip=frame_skip, max_bytes=max_bytes
  )


def test_the_order_is_that_of_the_numbers_not_of_the_names(tmp_path):
  names = [f'shot2_{i}.png' for i in range(8, 13)]
  write(tmp_path / 'clip', names)
  (tmp_path / 'clip' / '.hidden.png').write_text('')
  (tmp_path / 'clip' / 'notes.md').write_text('')
  assert [file.name for file in frame_folders.list_frames(tmp_path / 'clip', tmp_path)] == names
  assert frame_folders.probe_frames(tmp_path / 'clip', tmp_path) == (5, 0.0, (4, 6))
  assert read(tmp_path / 'clip', 0, 3, 2)[:, 0, 0, 0].tolist() == [0, 20, 40]


@pytest.mark.parametrize(
  ('names', 'expected'),
  [
    (['1.png'], True),
    (['frame_0001.PNG', 'frame_0002.png', 'readme.txt'], True),
    (['cover.png', '1.png'], False),
    (['readme.txt'], False),
    ([], False),
  ],
)
def test_what_makes_a_folder_a_clip(names, expected):
  assert frame_folders.are_frames(names) is expected


def test_folders_of_frames_are_found_among_other_clips(tmp_path):
  for name in ('a', 'deep/er/b', 'c'):
    write(tmp_path / name, ['1.png', '2.png'])
  np.save(tmp_path / 'c' / 'x.npy', np.zeros((2, 4, 6, 3), np.uint8))  # a folder of clips: its pictures are none
  write(tmp_path / 'covers', ['poster.png', '1.png'])
  write(tmp_path, ['1.png'])  # the root itself is no clip
  (tmp_path / 'a.txt').write_text('an  apple')
  source = data.Folder(tmp_path, 'train', num_frames=2, frame_rate=8.0, train_on_all=True)
  assert source.names == ['a', 'c/x.npy', 'deep/er/b']
  assert [source.caption(i) for i in range(3)] == ['an apple', '', '']


def test_errors(tmp_path):
  write(clip := tmp_path / 'clip', ['1.png', '2.png', '4.png'])
  with raises(f'{clip}: frame 3 is missing; number the frames in steps of one, or remove the folder.'):
    read(clip)
  write(clip, ['01.png'])
  with raises(f'{clip}: 01.png and 1.png have one number; number the frames in steps of one, or remove the folder.'):
    read(clip)
  (clip / '01.png').unlink()
  (clip / '4.png').unlink()
  write(clip, ['3.png'], size=(4, 5))
  with raises(f'{clip}/3.png: is 4x5, but 1.png is 4x6; make the frames one size, or remove the folder.'):
    read(clip, num_frames=3)
  (clip / '3.png').write_bytes((clip / '2.png').read_bytes()[:48])
  with raises(f'{clip}/3.png: cannot be decoded as a picture (OSError); replace or remove the file.'):
    read(clip, num_frames=3)
  (clip / '3.png').write_text('no picture')
  with raises(f'{clip}/3.png: cannot be decoded as a picture (UnidentifiedImageError); replace or remove the file.'):
    read(clip, num_frames=3)
  Image.fromarray(np.zeros((4, 6), np.uint16)).save(clip / '3.png')
  with raises(f'{clip}/3.png: has pixels of type I;16, but eight bits per colour are read; convert it.'):
    read(clip, num_frames=3)
  with raises(
    f'{clip}: 2 frames of 4x6 take 0.0 GB, but at most 0.0 GB are read at once; resize the file, or lower '
    'data.num_frames.'
  ):
    read(clip, max_bytes=143)
  write(tmp_path / 'none', [])
  with raises(f'{tmp_path}/none: is not a folder of numbered pictures (.png, .jpg, .jpeg, .webp, .bmp); remove it.'):
    read(tmp_path / 'none')


def test_pictures_may_not_be_links_to_the_outside(tmp_path):
  write(tmp_path / 'outside', ['1.png'])
  write(clip := tmp_path / 'data' / 'clip', ['1.png', '2.png'])
  (clip / '3.png').symlink_to(clip / '2.png')
  assert len(read(clip, num_frames=3)) == 3
  (clip / '4.png').symlink_to(tmp_path / 'outside' / '1.png')
  message = f'{clip}/4.png is a link to a place outside of data.path; copy the file instead.'
  for access in (read, lambda folder: frame_folders.probe_frames(folder, folder.parent)):
    with raises(message):
      access(clip)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
  write(clip := tmp_path / 'clip', ['1.png', '2.png'])
  png = (clip / '1.png').read_bytes()

  def claim(side):
    header = png[12:16] + side.to_bytes(4, 'big') * 2 + png[24:29]
    (clip / '1.png').write_bytes(png[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + png[33:])

  claim(6000)
  with raises(
    f'{clip}/1.png: the frames are 6000x6000, but at most 33,554,432 pixels are read; resize or remove the file.'
  ):
    read(clip)
  claim(60000)
  with pytest.raises(ValueError, match=rf'^{re.escape(str(clip))}/1.png: Image size \(3600000000 pixels\) exceeds'):
    read(clip)
