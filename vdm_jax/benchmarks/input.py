"""Throughput of the input pipeline, compared with bare loops that decode the same frames with PyAV.

    python -m vdm_jax.benchmarks.input

All read the same random windows of the same H.264 files in alternating rounds: the windows that the pipeline drew. The
files are synthetic unless --path names a folder. The bare loop opens a file, seeks, decodes the window and converts it
to RGB. The pipeline also resizes, collates and delivers batches, so a second loop resizes to the same pixels as well.
Rates are per second of CPU time, so using more cores gains nothing. The pipeline's CPU time is measured between two
moments at which its buffers are full. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from vdm_jax import configuration, data
from vdm_jax.benchmarks import timing
from vdm_jax.inputs.paths import file_argument
from vdm_jax.video import probe, reading, transforms

IDLE_SECONDS = 0.5
NOISE = 6  # amplitude in levels, like a sensor's noise; it accounts for most of the bits
# Grain shuffles by drawing from 2**16 positions until one belongs to a clip, which is slow with few clips.
LINKS = 32  # names of each synthetic file


def write_clips(folder: Path, count: int, *, size: tuple[int, int], num_frames: int, crf: int) -> None:
  """Write H.264 clips of a moving picture with noise, with x264's default settings except for its quality.

  Args:
    folder: where to write them.
    count: number of clips.
    size: height and width in pixels.
    num_frames: frames per clip.
    crf: x264's quality, 0 (lossless) to 51.
  """
  import av

  height, width = size
  for number in range(count):
    rng = np.random.default_rng(number)
    picture = _picture(rng, height + 3 * num_frames, width + 3 * num_frames)
    step = rng.uniform(1, 3, 2)
    with av.open(str(folder / f'{number:04d}.mp4'), 'w') as container:
      stream = container.add_stream('libx264', rate=24, options={'crf': str(crf)})
      stream.height, stream.width, stream.pix_fmt = height, width, 'yuv420p'
      for time_step in range(num_frames):
        top, left = (int(start) for start in step * time_step)
        noise = rng.integers(-NOISE, NOISE + 1, (height, width, 1))
        frame = np.clip(picture[top : top + height, left : left + width] + noise, 0, 255).astype(np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
      container.mux(stream.encode())


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Return noise with octaves of equal strength, which resembles a photograph: int16 [h w 3]."""
  octaves = []
  for side in (4, 8, 16, 32, 64, 128):
    coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    octaves.append(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16))
  return np.mean(octaves, axis=0).astype(np.int16)


def data_section(path: Path, *, batch_size: int, num_frames: int, size: tuple[int, int]) -> ConfigDict:
  """Return the section `data` of a configuration for a folder without captions."""
  config = configuration.default().data
  config.update(
    {
      'name': 'folder',
      'path': str(path),
      'batch_size': batch_size,
      'num_frames': num_frames,
      'height': size[0],
      'width': size[1],
      'text': 'none',
    }
  )
  return config


@contextlib.contextmanager
def recorded_windows() -> Iterator[list[tuple[Path, int]]]:
  """Yield a list that collects the file and first frame of each window that this process starts to read."""
  windows, read = [], reading.read_frames

  def record(path: Path, numbers: Sequence[int], **limits: Any) -> np.ndarray:
    windows.append((path, numbers[0]))
    return read(path, numbers, **limits)

  reading.read_frames = record
  try:
    yield windows
  finally:
    reading.read_frames = read


def bare_loop(windows: Sequence[tuple[Path, int]], num_frames: int, size: tuple[int, int] | None = None) -> int:
  """Decode windows, resize them if a size is given, and return the number of frames."""
  import av

  decoded = 0
  for file, start in windows:
    with av.open(str(file)) as container:
      stream = container.streams.video[0]
      stream.thread_type, stream.codec_context.thread_count = 'NONE', 1
      first = round(start / stream.average_rate / stream.time_base)
      container.seek(first, stream=stream, backward=True)
      frames = (frame.to_ndarray(format='rgb24', threads=1) for frame in container.decode(stream) if frame.pts >= first)
      video = np.stack(list(itertools.islice(frames, num_frames)))
    if len(video) < num_frames:
      raise ValueError(f'{file}: the bare loop needs a constant frame rate and timestamps from 0: use other files.')
    decoded += len(video if size is None else transforms.resize_and_crop(video, *size))
  return decoded


def cpu_seconds_when_idle() -> float:
  """Wait at most a minute until this process is idle, and return the CPU seconds it has used."""
  used = time.process_time()
  for _ in range(round(60 / IDLE_SECONDS)):
    time.sleep(IDLE_SECONDS)
    before, used = used, time.process_time()
    if used - before < 0.02 * IDLE_SECONDS:
      break
  return used


def compare(path: Path, args: argparse.Namespace) -> dict[str, Any]:
  """Return each side's clips per CPU second, and the pipeline's over each loop's: medians over rounds."""
  size = tuple(args.size)
  rates = {'pipeline': [], 'bare_loop': [], 'resizing_loop': []}
  with recorded_windows() as windows:
    stream = data.build(data_section(path, batch_size=args.batch, num_frames=args.num_frames, size=size), None, seed=0)
    next(stream)
    for _ in range(args.rounds):
      used = [cpu_seconds_when_idle()]
      windows.clear()
      for _ in range(args.batches):
        next(stream)
      used.append(cpu_seconds_when_idle())
      for resized in (None, size):
        bare_loop(windows, args.num_frames, resized)
        used.append(time.process_time())
      for rate, seconds in zip(rates.values(), np.diff(used), strict=True):
        rate.append(len(windows) / seconds)
    stream.close()
  ours = rates['pipeline']
  return {f'{name}_clips_per_second_and_core': float(np.median(rate)) for name, rate in rates.items()} | {
    f'pipeline_over_{name}': float(np.median(np.divide(ours, rates[name]))) for name in ('bare_loop', 'resizing_loop')
  }


def bits_per_pixel(files: Sequence[Path]) -> float:
  """Return the mean stored bits per pixel of these videos, which decoding time mostly depends on."""
  infos = [probe(file) for file in files]
  pixels = sum(info.num_frames * np.prod(info.resolution) for info in infos)
  return 8 * sum(file.stat().st_size for file in files) / float(pixels)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--path', type=file_argument, help='folder of mp4 files; synthetic ones by default')
  parser.add_argument('--clips', type=int, default=8, help='number of synthetic files')
  parser.add_argument('--file_frames', type=int, default=96, help='frames per synthetic file')
  parser.add_argument('--crf', type=int, default=23, help='quality of x264: 0 is lossless, 23 the default')
  parser.add_argument(
    '--file_size', type=int, nargs=2, default=(240, 320), metavar=('H', 'W'), help='of synthetic files'
  )
  parser.add_argument('--num_frames', type=int, default=16, help='frames per window')
  parser.add_argument('--size', type=int, nargs=2, default=(64, 64), metavar=('H', 'W'), help='frame size of a batch')
  parser.add_argument('--batch', type=int, default=8, help='clips per batch')
  parser.add_argument('--batches', type=int, default=4, help='batches per round')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--out', type=file_argument, help='file for the report, which is printed in any case')
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    if args.path is None:
      write_clips(Path(folder), args.clips, size=tuple(args.file_size), num_frames=args.file_frames, crf=args.crf)
      for file, copy in itertools.product(sorted(Path(folder).iterdir()), range(1, LINKS)):
        os.link(file, file.with_stem(f'{file.stem}_{copy}'))
    path = args.path or Path(folder)
    measured = {'bits_per_pixel': bits_per_pixel(sorted(path.rglob('*.mp4'))), **compare(path, args)}
  report = {
    'command': timing.command('input', argv),
    'cpu_count': os.cpu_count(),
    **measured,
  }
  text = json.dumps(report, indent=1) + '\n'
  print(text, end='')
  if args.out:
    args.out.write_text(text)


if __name__ == '__main__':
  main()
