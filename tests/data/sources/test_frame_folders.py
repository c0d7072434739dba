from __future__ import annotations

import zlib

import numpy as np
import pytest
from helpers.messages import raises
from PIL import Image

from vdm_jax import data
from vdm_jax.data.sources import frame_folders


def write(folder, names, size=(4, 6)):
  folder.mkdir(parents=True, exist_ok=True)
  for i, name in enumerate(names):
    Image.fromarray(np.full((*size, 3), 10 * i, np.uint8)).save(folder / name)


def read(folder, numbers=(0, 1), max_bytes=2**20):
  return frame_folders.read_frames(folder, folder.parent, numbers, max_bytes=max_bytes)


def test_frames_are_ordered_by_number_not_by_name(tmp_path):
  names = [f'shot2_{i}.png' for i in range(8, 13)]
  write(tmp_path / 'clip', names)
  (tmp_path / 'clip' / '.hidden.png').write_text('')
  (tmp_path / 'clip' / 'notes.md').write_text('')
  assert [file.name for file in frame_folders.list_frames(tmp_path / 'clip', tmp_path)] == names
  assert frame_folders.probe_frames(tmp_path / 'clip', tmp_path) == (5, 0.0, (4, 6))
  assert read(tmp_path / 'clip', (0, 2, 4))[:, 0, 0, 0].tolist() == [0, 20, 40]


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
def test_a_folder_of_numbered_images_is_a_clip(names, expected):
  assert frame_folders.are_frames(names) is expected


def test_folders_of_frames_are_found_among_other_clips(tmp_path):
  for name in ('a', 'deep/er/b', 'c'):
    write(tmp_path / name, ['1.png', '2.png'])
  np.save(tmp_path / 'c' / 'x.npy', np.zeros((2, 4, 6, 3), np.uint8))  # in a folder of clips, images are not clips
  write(tmp_path / 'covers', ['poster.png', '1.png'])
  write(tmp_path, ['1.png'])  # the root itself is never a clip
  (tmp_path / 'a.txt').write_text('an  apple')
  source = data.StoredClips(data.Folder(tmp_path), 'train', num_frames=2, frame_rate=8.0, train_on_all=True)
  assert source.names == ['a', 'c/x.npy', 'deep/er/b']
  assert [source.caption(i) for i in range(3)] == ['an apple', '', '']


def test_errors(tmp_path):
  write(clip := tmp_path / 'clip', ['1.png', '2.png', '4.png'])
  with raises(ValueError, clip, 'frame 3'):
    read(clip)
  write(clip, ['01.png'])
  with raises(ValueError, clip, '01.png and 1.png'):
    read(clip)
  (clip / '01.png').unlink()
  (clip / '4.png').unlink()
  write(clip, ['3.png'], size=(4, 5))
  with raises(ValueError, f'{clip}/3.png', '4x5', '1.png', '4x6'):
    read(clip, range(3))
  (clip / '3.png').write_bytes((clip / '2.png').read_bytes()[:48])
  with raises(ValueError, f'{clip}/3.png', 'OSError'):
    read(clip, range(3))
  (clip / '3.png').write_text('no image')
  with raises(ValueError, f'{clip}/3.png', 'UnidentifiedImageError'):
    read(clip, range(3))
  Image.fromarray(np.zeros((4, 6), np.uint16)).save(clip / '3.png')
  with raises(ValueError, f'{clip}/3.png', 'I;16'):
    read(clip, range(3))
  with raises(ValueError, clip, '2 frames of 4x6', 'data.num_frames'):
    read(clip, max_bytes=143)
  write(tmp_path / 'none', [])
  with raises(ValueError, tmp_path / 'none', '.png, .jpg, .jpeg, .webp, .bmp'):
    read(tmp_path / 'none')


def test_images_may_not_be_links_out_of_the_folder(tmp_path):
  write(tmp_path / 'outside', ['1.png'])
  write(clip := tmp_path / 'data' / 'clip', ['1.png', '2.png'])
  (clip / '3.png').symlink_to(clip / '2.png')
  assert len(read(clip, range(3))) == 3
  (clip / '4.png').symlink_to(tmp_path / 'outside' / '1.png')
  for access in (read, lambda folder: frame_folders.probe_frames(folder, folder.parent)):
    with raises(ValueError, f'{clip}/4.png', 'link', 'data.path'):
      access(clip)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
  write(clip := tmp_path / 'clip', ['1.png', '2.png'])
  png = (clip / '1.png').read_bytes()

  def claim(side):
    header = png[12:16] + side.to_bytes(4, 'big') * 2 + png[24:29]
    (clip / '1.png').write_bytes(png[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + png[33:])

  claim(6000)
  with raises(ValueError, f'{clip}/1.png', '6000x6000', '33,554,432'):
    read(clip)
  claim(60000)
  with raises(ValueError, f'{clip}/1.png', '3600000000 pixels'):
    read(clip)


@pytest.mark.parametrize('orientation', [2, 6])
def test_numbered_images_are_turned_and_composited_like_single_ones(tmp_path, orientation):
  """A hidden color under the transparent half is not seen, and the opaque half is where EXIF says."""
  stored = np.zeros((8, 12, 4), np.uint8)
  stored[:, :6], stored[:, 6:] = (9, 90, 200, 0), (200, 100, 40, 255)
  exif = Image.Exif()
  exif[274] = orientation
  (tmp_path / 'clip').mkdir()
  for number in range(2):
    Image.fromarray(stored).save(tmp_path / 'clip' / f'{number}.png', exif=exif)
  shown = np.where(stored[..., 3:] > 0, stored[..., :3], 255)
  shown = shown[:, ::-1] if orientation == 2 else shown.swapaxes(0, 1)[:, ::-1]
  np.testing.assert_array_equal(read(tmp_path / 'clip', [0, 1]), np.stack([shown, shown]))
  assert frame_folders.probe_frames(tmp_path / 'clip', tmp_path).resolution == shown.shape[:2]
  np.testing.assert_array_equal(frame_folders.read_image(tmp_path / 'clip' / '1.png', 10**6)[0], shown)
