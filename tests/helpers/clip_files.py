"""Clips written losslessly in every format that the library reads, for the tests."""

from __future__ import annotations

import io

import av
import numpy as np
from PIL import Image

from vdm_jax import video as files


def make_clip(number, num_frames=7, height=16, width=24):
  """Return uint8 [t h w 3] with few colors, so that a GIF is exact; pixels identify the clip and the frame."""
  rng = np.random.default_rng(number)
  return (
    rng.integers(0, 8, (num_frames, height, width, 3)).astype(np.uint8)
    * np.uint8([9, 30, 2])
    * (rng.random((num_frames, height, width, 1)) < 0.4).astype(np.uint8)
  )


def numbered(num_frames, side=48):
  """Return a video whose frame i has the gray value 6 i, so that a decoded frame identifies its number."""
  return np.full((num_frames, side, side, 3), 6 * np.arange(num_frames)[:, None, None, None], np.uint8)


def encode(path, video, codec, pixel_format, **options):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=8, options=options)
    stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], pixel_format
    for frame in video:
      picture = av.VideoFrame.from_ndarray(frame, 'rgb24')
      container.mux(stream.encode(picture.reformat(format=pixel_format) if pixel_format != 'rgb24' else picture))
    container.mux(stream.encode())


def write_mp4(path, video):
  encode(path, video, 'libx264rgb', 'rgb24', qp='0', g='3')


def write_webm(path, video):
  encode(path, video, 'libvpx-vp9', 'gbrp', lossless='1', g='3')


def write_avi(path, video):
  encode(path, video, 'ffv1', 'bgr0')


def write_mov(path, video):
  encode(path, video, 'png', 'rgb24')


def write_gif(path, video):
  files.write_gif(path, video, fps=8)


def write_npy(path, video):
  np.save(path, video)


def write_frames(path, video):
  path.mkdir()
  for number, frame in enumerate(video, 8):  # from one-digit to two-digit numbers
    files.write_png(path / f'frame_{number}.png', frame)


WRITERS = {
  '.mp4': write_mp4,
  '.webm': write_webm,
  '.avi': write_avi,
  '.mov': write_mov,
  '.gif': write_gif,
  '.npy': write_npy,
  '': write_frames,
}


def png(frame):
  buffer = io.BytesIO()
  Image.fromarray(frame).save(buffer, 'PNG')
  return io.BytesIO(buffer.getvalue())


def prepare_tfds(folder, dataset, splits, *, bair=False):
  """Prepare a data set with the features of ucf101, or of BAIR, from clips [t h w 3] by split; return its folder."""
  import tensorflow_datasets as tfds

  shape = next(iter(splits.values()))[0].shape[1:]
  if bair:
    features = tfds.features.Sequence(
      {
        'image_main': tfds.features.Image(shape=shape),
        'image_aux1': tfds.features.Image(shape=shape),
        'action': tfds.features.Tensor(shape=(4,), dtype=np.float32),
      }
    )
  else:
    classes = tfds.features.ClassLabel(names=['Archery', 'Bowling', 'Diving'])
    features = tfds.features.FeaturesDict(
      {'video': tfds.features.Sequence(tfds.features.Image(shape=shape)), 'label': classes}
    )

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('2.0.0')
    name = dataset
    code_path = None  # read no files beside this one

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _):
      return {split: self._generate_examples(clips) for split, clips in splits.items()}

    def _generate_examples(self, clips):
      black = np.zeros(shape, np.uint8)
      for i, clip in enumerate(clips):
        if bair:
          yield (str(i), [{'image_main': png(f), 'image_aux1': png(black), 'action': np.zeros(4, 'f4')} for f in clip])
        else:
          yield str(i), {'video': [png(frame) for frame in clip], 'label': i % 3}

  builder = Builder(data_dir=folder, file_format='array_record')
  tfds.disable_progress_bar()
  builder.download_and_prepare()
  return folder / dataset / '2.0.0'
