"""Files that were cut without encoding them again: FFmpeg drops frames that refer to pictures before the cut."""

from __future__ import annotations

import av
import numpy as np
import pytest

from vdm_jax.video import reading

CODECS = {  # name of the encoder -> options with groups of pictures that refer to each other
  'mpeg2video': {'bf': '2', 'g': '12', 'sc_threshold': '1000000000'},
  'libx264': {'x264-params': 'keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:b-adapt=0'},
  'libx265': {'x265-params': 'keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:b-adapt=0:log-level=none'},
}


def encode(path, codec):
  """48 frames, each of another brightness."""
  with av.open(str(path), 'w') as file:
    stream = file.add_stream(codec, rate=25, options=CODECS[codec])
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    for number in range(48):
      frame = np.full((48, 64, 3), 5 * number, np.uint8)
      file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
    file.mux(stream.encode())


def cut(source, path):
  """The packets from the second key frame on."""
  with av.open(str(source)) as read, av.open(str(path), 'w') as written:
    stream = written.add_stream_from_template(read.streams.video[0])
    keys, first = 0, None
    for packet in read.demux(video=0):
      keys += packet.is_keyframe and packet.size > 0
      if keys < 2 or not packet.size:
        continue
      first = packet.dts if first is None else first
      packet.pts, packet.dts = packet.pts - first, packet.dts - first
      packet.stream = stream
      written.mux(packet)


@pytest.mark.parametrize('suffix', ['mkv', 'mp4', 'ts'])
@pytest.mark.parametrize('codec', CODECS)
def test_the_frames_of_a_cut_are_those_that_ffmpeg_shows(codec, suffix, tmp_path):
  if codec not in av.codecs_available:
    pytest.skip(f'this PyAV has no {codec}')
  encode(tmp_path / f'whole.{suffix}', codec)
  cut(tmp_path / f'whole.{suffix}', tmp_path / f'cut.{suffix}')
  with av.open(str(tmp_path / f'cut.{suffix}')) as file:
    shown = [frame.to_ndarray(format='rgb24') for frame in file.decode(video=0)]
  found = reading.read_video(tmp_path / f'cut.{suffix}')
  assert len(found) == len(shown) == reading.probe(tmp_path / f'cut.{suffix}').num_frames
  assert len(shown) < 48 - 12 + 4
  np.testing.assert_allclose(found.mean((1, 2, 3)), [frame.mean() for frame in shown], atol=1.5)
