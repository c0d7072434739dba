from __future__ import annotations

import resource
import struct

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax.video import read_video, write_mp4
from vdm_jax.video.headers import check_frame_count


@pytest.fixture
def clip(tmp_path):
  write_mp4(tmp_path / 'a.mp4', np.zeros((30, 32, 32, 3), np.uint8), fps=8)
  return tmp_path / 'a.mp4'


def claim(path, count, size=100):
  """Write into the tables that all samples have one size, and their number."""
  content = bytearray(path.read_bytes())
  for name, offset, value in ((b'stsz', 8, size), (b'stsz', 12, count), (b'stts', 12, count), (b'stsc', 16, count)):
    place = content.find(name) + offset
    content[place : place + 4] = struct.pack('>I', value)
  path.write_bytes(content)


@pytest.mark.parametrize('count', [10**6, 5 * 10**7, 2**32 - 1])
def test_a_claimed_frame_count_takes_no_memory(clip, count):
  claim(clip, count)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with raises(ValueError, clip, f'{count:,} samples'):
    read_video(clip)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # kilobytes


@pytest.mark.parametrize('flags', [0, 0x200, 0xF00])
def test_frame_counts_of_fragments_are_checked(clip, flags):
  box = struct.pack('>I4sIII', 24, b'trun', flags, 5000, 0) + bytes(4)
  clip.write_bytes(clip.read_bytes() + struct.pack('>I4s', 8 + len(box), b'moof') + box)
  with raises(ValueError, '5,000 samples'):
    check_frame_count(clip, 4999)
  check_frame_count(clip, 5000) if not flags else clip.write_bytes(clip.read_bytes() + bytes(5000 * 16))
  check_frame_count(clip, 5000)


def test_other_data_are_not_taken_for_tables(tmp_path, clip):
  """Pixels may contain any bytes, and other formats have other tables."""
  check_frame_count(clip, 30)
  content = clip.read_bytes()
  table = struct.pack('>I4sIII', 20, b'stsz', 0, 100, 10**9)
  clip.write_bytes(content + struct.pack('>I4s', 8 + len(table), b'mdat') + table)
  check_frame_count(clip, 30)
  clip.write_bytes(struct.pack('>I4sQ', 1, b'mdat', 16 + len(table)) + table + content[content.find(b'moov') - 4 :])
  check_frame_count(clip, 30)
  (tmp_path / 'x').write_bytes(b'\x1aE\xdf\xa3' + table)
  check_frame_count(tmp_path / 'x', 30)
  for length in range(0, len(content), 5):
    (tmp_path / 'cut').write_bytes(content[:length])
    check_frame_count(tmp_path / 'cut', 30)
