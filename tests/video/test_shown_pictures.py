"""Pictures as a player shows them: the stream, pixel shape, orientation, crop, fields and transparency of a file.

Right values are arithmetic; those of FFmpeg's command line are checked besides where it is installed.
"""

from __future__ import annotations

import fractions
import shutil
import struct
import subprocess

import av
import numpy as np
import pytest
from av.stream import Disposition
from helpers.clip_files import numbered
from helpers.messages import raises
from PIL import Image

from vdm_jax.video import deinterlacing, display, read_video, reading

LOSSLESS = {'qp': '0'}


def write(path, video, codec='libx264', pixel_format='yuv444p', aspect=None, turn=None, options=LOSSLESS, times=None):
  """Write frames [t h w 3 or 4]; `turn` are the arguments of set_display_rotation, `times` thousandths of a second."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=25 if times is None else 1000, options=options)
    stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], pixel_format
    if aspect:
      stream.codec_context.sample_aspect_ratio = aspect
    if turn:
      stream.set_display_rotation(*turn)
    for number, picture in enumerate(video):
      frame = av.VideoFrame.from_ndarray(picture, 'rgba' if picture.shape[-1] == 4 else 'rgb24')
      frame = frame.reformat(format=pixel_format)
      if times is not None:
        frame.pts, frame.time_base = times[number], fractions.Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def mux(path, parts):
  """Write streams side by side, each (video, disposition), of the codec mjpeg."""
  with av.open(str(path), 'w') as container:
    streams = []
    for video, disposition in parts:
      stream = container.add_stream('mjpeg', rate=8, options={'qmin': '1', 'qmax': '2'})
      stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], 'yuvj420p'
      stream.disposition = disposition
      streams.append(stream)
    for stream, (video, _) in zip(streams, parts, strict=True):
      for picture in video:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24').reformat(format='yuvj420p')))
      container.mux(stream.encode())


def boxes(content, start, end):
  while start < end:
    size, kind = struct.unpack_from('>I4s', content, start)
    yield kind, start, start + size
    start += size


MAIN, SMALL, LARGE = numbered(12, 48), numbered(12, 32)[:, :, ::-1] // 2 + 99, np.full((12, 64, 64, 3), 200, np.uint8)


@pytest.mark.parametrize(
  'parts',
  [
    [(LARGE[:1], Disposition(0)), (MAIN, Disposition(0))],  # a single picture
    [(LARGE[:1], Disposition.default), (MAIN, Disposition(0))],
    [(SMALL, Disposition(0)), (MAIN, Disposition.default)],  # a preview
    [(LARGE, Disposition(0)), (MAIN, Disposition.default)],
    [(SMALL, Disposition(0)), (MAIN, Disposition(0))],
    [(MAIN, Disposition(0)), (SMALL, Disposition(0))],
  ],
)
def test_the_stream_is_the_one_that_a_player_shows(tmp_path, parts):
  mux(tmp_path / 'a.mkv', parts)
  assert reading.probe(tmp_path / 'a.mkv')[::2] == (12, (48, 48))
  read = read_video(tmp_path / 'a.mkv', start=2, num_frames=9)
  np.testing.assert_allclose(read.mean((1, 2, 3)), 6 * np.arange(2, 11), atol=2)
  assert reading.notes(tmp_path / 'a.mkv') == ('several video streams',)


@pytest.mark.parametrize('song', [False, True])
def test_a_cover_is_no_video_even_if_it_is_stored_first(tmp_path, song):
  path = tmp_path / 'a.mp4'
  mux(path, [(LARGE[:1], Disposition.attached_pic)] if song else [(LARGE[:1], Disposition.attached_pic), (MAIN, 1)])
  content = path.read_bytes()
  start, end = next((start, end) for kind, start, end in boxes(content, 0, len(content)) if kind == b'moov')
  inner = [(kind, content[a:b]) for kind, a, b in boxes(content, start + 8, end)]
  inner.sort(key=lambda box: {b'mvhd': 0, b'udta': 1}.get(box[0], 2))
  path.write_bytes(content[: start + 8] + b''.join(box for _, box in inner) + content[end:])
  with av.open(str(path)) as container:
    assert container.streams.video[0].disposition & Disposition.attached_pic
  if song:
    with raises(ValueError, path, 'no video frames'):
      reading.probe(path)
  else:
    np.testing.assert_allclose(read_video(path).mean((1, 2, 3)), 6 * np.arange(12), atol=2)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv'])
@pytest.mark.parametrize(('aspect', 'width'), [((64, 45), 64), ((4, 3), 60), ((8, 9), 40), ((1, 1), 45)])
def test_pixels_that_are_not_square_are_shown_square(tmp_path, name, aspect, width):
  """A box from 1/5 to 3/5 of the width of the picture stays there, and the height is kept."""
  video = np.zeros((2, 30, 45, 3), np.uint8)
  video[:, 10:20, 9:27] = 240
  write(tmp_path / name, video, aspect=fractions.Fraction(*aspect))
  assert reading.probe(tmp_path / name).resolution == (30, width)
  read = read_video(tmp_path / name)
  assert read.shape == (2, 30, width, 3)
  wide, high = (read[0, ..., 0] > 120).any(0), (read[0, ..., 0] > 120).any(1)
  np.testing.assert_allclose((wide.argmax(), wide.sum()), (0.2 * width, 0.4 * width), atol=1)
  assert (high.argmax(), high.sum()) == (10, 10)


# Of each EXIF orientation: the picture [h w] that is stored, from the one that is shown.
STORED = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.swapaxes(0, 1),
  6: lambda x: x.swapaxes(0, 1)[::-1],  # its first column is the upper edge
  7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
  8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}
# (degrees counterclockwise, mirror left to right, mirror top to bottom), as a display matrix is applied
TURNS = {
  1: (0, False, False),
  2: (0, True, False),
  3: (180, False, False),
  4: (0, False, True),
  5: (90, False, True),
  6: (-90, False, False),
  7: (90, True, False),
  8: (90, False, False),
}


def picture():
  shown = np.zeros((32, 48, 3), np.uint8)
  shown[:8, :12], shown[:8, -6:], shown[-4:, :12] = (240, 0, 0), (0, 240, 0), (0, 0, 240)
  return shown


@pytest.mark.parametrize('orientation', STORED)
def test_all_orientations(tmp_path, orientation):
  shown = picture()
  stored = np.ascontiguousarray(STORED[orientation](shown))
  write(tmp_path / 'a.mp4', stored[None].repeat(2, 0), turn=TURNS[orientation])
  np.testing.assert_allclose(read_video(tmp_path / 'a.mp4'), shown[None].repeat(2, 0), atol=4)
  exif = Image.Exif()
  exif[274] = orientation
  Image.fromarray(stored).save(tmp_path / 'a.jpg', quality=100, subsampling=0, exif=exif)
  Image.fromarray(stored).save(tmp_path / 'a.png', exif=exif)
  with Image.open(tmp_path / 'a.png') as image:
    assert display.image_shape(image) == (32, 48)
    np.testing.assert_array_equal(display.image_pixels(image), shown)
  np.testing.assert_allclose(read_video(tmp_path / 'a.jpg')[0], shown, atol=6)
  np.testing.assert_array_equal(read_video(tmp_path / 'a.png')[0], shown)


def test_a_turn_by_an_odd_angle_is_noted(tmp_path):
  write(tmp_path / 'a.mp4', picture()[None], turn=(75,))
  assert read_video(tmp_path / 'a.mp4').shape == (1, 48, 32, 3)  # to the nearest quarter turn
  assert reading.notes(tmp_path / 'a.mp4') == ('rotated by an odd angle',)


def test_the_clean_aperture_of_mp4_is_shown(tmp_path):
  video = np.zeros((2, 48, 64, 3), np.uint8)
  video[:, 8:40, 4:52] = 200
  write(tmp_path / 'a.mp4', video)
  content = bytearray((tmp_path / 'a.mp4').read_bytes())
  start, end, parents = 0, len(content), []
  for kind in (b'moov', b'trak', b'mdia', b'minf', b'stbl', b'stsd'):
    start, end = next((a, b) for found, a, b in boxes(content, start, end) if found == kind)
    parents.append(start)
    start += 8
  entry = start + 8
  (size,) = struct.unpack_from('>I', content, entry)
  content[entry + size : entry + size] = struct.pack('>I4s8i', 40, b'clap', 48, 1, 32, 1, -4, 1, 0, 1)
  for parent in [*parents, entry]:
    struct.pack_into('>I', content, parent, struct.unpack_from('>I', content, parent)[0] + 40)
  for displayed in ((64, 48), (48, 32)):  # writers give either size of the picture
    struct.pack_into('>II', content, content.index(b'tkhd') + 80, *(side << 16 for side in displayed))
    (tmp_path / f'{displayed[0]}.mp4').write_bytes(content)
    read = read_video(tmp_path / f'{displayed[0]}.mp4')
    assert read.shape == (2, 32, 48, 3)
    np.testing.assert_allclose(read, 200, atol=1)
    assert reading.notes(tmp_path / f'{displayed[0]}.mp4') == ('cropped by their metadata',)


def test_the_pixel_crop_of_matroska_is_applied(tmp_path):
  video = np.zeros((2, 48, 64, 3), np.uint8)
  video[:, 40:, 4:] = 200
  write(tmp_path / 'a.mkv', video)
  content = bytearray((tmp_path / 'a.mkv').read_bytes())
  tracks = content.rindex(bytes.fromhex('1654ae6b')) + 4
  body = tracks + 9 - content[tracks].bit_length()
  assert content[body] == 0xBF and content[body + 6] == 0xAE, 'a check sum, and the track'
  content[body : body + 6] = bytes.fromhex('ec8400000000')  # no check sum
  size = body + 7 + 8 - content[body + 7].bit_length()
  settings = content.index(bytes.fromhex('b0'), content.index(b'V_MPEG4'))
  for last in (settings - 1, size, body - 1):
    content[last] += 8
  content[settings:settings] = bytes.fromhex('54bb8128' + '54cc8104')  # top 40, left 4
  void = content.index(0xEC)  # as much room less, so that nothing after the tracks moves
  room = int.from_bytes(content[void + 2 : void + 9], 'big')
  content[void + 2 : void + 9] = (room - 8).to_bytes(7, 'big')
  del content[void + 9 : void + 17]
  (tmp_path / 'b.mkv').write_bytes(content)
  read = read_video(tmp_path / 'b.mkv')
  assert read.shape == (2, 8, 60, 3)
  np.testing.assert_allclose(read, 200, atol=1)


def fields(num_fields, height=32, width=96):
  """Return frames of a bar that moves by four pixels from field to field, the lower field first, and the fields."""
  bars = np.zeros((num_fields, height, width, 3), np.uint8)
  for number, bar in enumerate(bars):
    bar[:, 4 * number : 4 * number + 12] = 220
  frames = bars[::2].copy()
  frames[:, ::2] = bars[1::2, ::2]
  return frames, bars


def test_marked_interlaced_frames_are_deinterlaced_alike_in_every_window(tmp_path):
  """A bar is the same in all rows, so a frame is the picture of its first field."""
  frames, bars = fields(20)
  marked = {**LOSSLESS, 'flags': '+ilme+ildct', 'bf': '2'}  # PyAV marks the lower field as first
  write(tmp_path / 'a.mp4', frames, options=marked, pixel_format='yuv420p')
  whole = read_video(tmp_path / 'a.mp4')
  assert whole.shape == frames.shape
  np.testing.assert_allclose(whole.astype(int), bars[::2], atol=6)
  assert reading.notes(tmp_path / 'a.mp4') == ('interlaced',)
  for start, num_frames, frame_skip in [(0, 1, 1), (3, 4, 1), (1, 3, 3), (9, 1, 1), (2, 4, 2)]:
    window = read_video(tmp_path / 'a.mp4', start=start, num_frames=num_frames, frame_skip=frame_skip)
    np.testing.assert_array_equal(window, whole[start : start + num_frames * frame_skip : frame_skip])


def test_deinterlacing_ends_at_a_damaged_frame():
  frames, _ = fields(6)
  decoded = [av.VideoFrame.from_ndarray(frame, 'rgb24').reformat(format='yuv420p') for frame in frames]
  found = list(deinterlacing.deinterlace(enumerate([decoded[0], decoded[1], None, decoded[2]]), range(4)))
  assert [number for number, frame in found if frame is None] == [2]
  assert max(number for number, _ in found) == 2


def test_combs_are_recognized_in_the_pixels():
  frames, bars = fields(16)
  assert deinterlacing.is_combed(frames)
  assert not deinterlacing.is_combed(bars)
  stripes = bars.copy()
  stripes[:, ::2, 80:] = 200  # a fine pattern that stands still
  assert not deinterlacing.is_combed(stripes)
  assert not deinterlacing.is_combed(frames[:1].repeat(8, 0))
  assert not deinterlacing.is_combed(np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3)).astype(np.uint8))


@pytest.mark.parametrize(
  ('name', 'codec', 'pixel_format', 'tolerance'),
  [
    ('a.webm', 'libvpx-vp9', 'yuva420p', 8),
    ('b.webm', 'libvpx', 'yuva420p', 24),
    ('a.mov', 'png', 'rgba', 0),
    ('b.mov', 'prores_ks', 'yuva444p10le', 8),
    ('c.mov', 'qtrle', 'argb', 0),
    ('a.mkv', 'ffv1', 'bgra', 0),
  ],
)
def test_transparent_pixels_are_white_whatever_they_hide(tmp_path, name, codec, pixel_format, tolerance):
  """Half of the picture is transparent, a quarter opaque, a quarter half transparent: 128/255 of (200, 100, 40)."""
  hidden = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3)).repeat(3, 0)
  video = np.concatenate([hidden, np.zeros((3, 32, 48, 1), int)], -1).astype(np.uint8)
  video[:, :16, 24:], video[:, 16:, 24:] = (200, 100, 40, 255), (200, 100, 40, 128)
  options = {'auto-alt-ref': '0', 'crf': '4', 'b': '4M'} if 'webm' in name else {}
  write(tmp_path / name, video, codec, pixel_format, options=options)
  read = read_video(tmp_path / name).astype(int)
  np.testing.assert_allclose(read[:, :, :20], 255, atol=tolerance)
  np.testing.assert_allclose(read[:, 2:12, 28:44] - [200, 100, 40], 0, atol=tolerance)
  half = np.rint(128 / 255 * np.array([200, 100, 40]) + 127)
  np.testing.assert_allclose(read[:, 20:30, 28:44] - half, 0, atol=tolerance)
  assert 'transparent' in reading.notes(tmp_path / name)
  np.testing.assert_array_equal(read_video(tmp_path / name, start=1, num_frames=2), read[1:])


def test_every_kind_of_transparent_image_is_on_the_same_white(tmp_path):
  colors = np.zeros((8, 8, 4), np.uint8)
  colors[:, :4], colors[:, 4:] = (9, 90, 200, 0), (200, 100, 40, 255)
  shown = np.where(colors[..., 3:] > 0, colors[..., :3], 255)
  palette = Image.fromarray(np.uint8(colors[..., 3] > 0), 'P')
  palette.putpalette([9, 90, 200, 200, 100, 40])
  palette.save(tmp_path / 'palette.png', transparency=0)
  palette.save(tmp_path / 'palette.gif', transparency=0)
  Image.fromarray(colors).save(tmp_path / 'alpha.png')
  Image.fromarray(colors).save(tmp_path / 'alpha.webp', lossless=True, exact=True)
  Image.fromarray(colors[..., :3]).save(tmp_path / 'key.png', transparency=(9, 90, 200))
  for file in sorted(tmp_path.iterdir()):
    with Image.open(file) as image:
      np.testing.assert_array_equal(display.image_pixels(image), shown, err_msg=file.name)
    np.testing.assert_array_equal(read_video(file)[0], shown, err_msg=file.name)


@pytest.mark.parametrize('transfer', ['smpte2084', 'arib-std-b67', 'bt709'])
def test_high_dynamic_range_is_noted(tmp_path, transfer):
  write(tmp_path / 'a.mp4', numbered(2), options={'color_trc': transfer})
  expected = {'smpte2084': ('HDR (PQ)',), 'arib-std-b67': ('HDR (HLG)',), 'bt709': ()}[transfer]
  assert reading.notes(tmp_path / 'a.mp4') == expected


def ffmpeg(path, size, filters):
  """Return the frames [t h w 3] that FFmpeg's command line makes of a file."""
  if shutil.which('ffmpeg') is None:
    pytest.skip('the command line of FFmpeg is not installed')
  command = [
    'ffmpeg',
    '-v',
    'error',
    '-i',
    path,
    '-vf',
    f'{filters},format=rgb24',
    '-vsync',
    '0',
    '-f',
    'rawvideo',
    '-',
  ]
  raw = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
  return np.frombuffer(raw, np.uint8).reshape(-1, *size, 3).astype(int)


def test_frames_are_those_of_the_command_line_of_ffmpeg(tmp_path):
  frames, _ = fields(20)
  write(tmp_path / 'a.mkv', frames, options={**LOSSLESS, 'flags': '+ilme+ildct'})
  made = ffmpeg(tmp_path / 'a.mkv', (32, 96), 'bwdif=mode=send_frame:deint=interlaced')
  np.testing.assert_allclose(read_video(tmp_path / 'a.mkv')[1:], made[1:], atol=2)  # they differ at the start
  smooth = np.linspace(0, 250, 45 * 30).reshape(1, 30, 45, 1).repeat(3, -1).repeat(2, 0).astype(np.uint8)
  write(tmp_path / 'b.mp4', smooth, aspect=fractions.Fraction(4, 3), turn=(90, True, False))
  np.testing.assert_allclose(
    read_video(tmp_path / 'b.mp4'), ffmpeg(tmp_path / 'b.mp4', (60, 30), 'scale=30:60'), atol=9
  )
