"""Clips per second and core of the input pipeline, beside a bare loop that decodes the same frames with PyAV.

    python -m vdm_jax.benchmarks.input

Both read random windows of the same H.264 files, synthesised unless --path names a folder, in alternating rounds. The
bare loop opens a file, seeks, decodes the window and converts it to RGB; the pipeline also resizes, collates and hands
batches over. What counts is processor time, so that neither gains by using more cores: the pipeline's is taken from
one moment when its buffers are full to another. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import configuration, data
from vdm_jax.benchmarks import timing

IDLE_SECONDS = 0.5


def synthesise(folder: Path, count: int, *, size: tuple[int, int], num_frames: int) -> None:
  """Writes H.264 clips of moving gradients and noise, which cost about what footage costs to decode."""
  height, width = size
  rows, columns = np.mgrid[:height, :width]
  for number in range(count):
    rng = np.random.default_rng(number)
    texture = rng.integers(0, 40, (height, width, 3))
    speed = rng.uniform(1, 6)
    frames = (
      np.uint8((np.stack([rows + speed * t, columns - speed * t, rows + columns], axis=-1) + texture) % 256)
      for t in range(num_frames)
    )
    data.write_mp4(folder / f'{number:04d}.mp4', frames, 24)


def settings(path: Path, batch_size: int, num_frames: int, size: tuple[int, int]) -> ConfigDict:
  """The section `data` for a folder without captions."""
  config = configuration.default('unet3d').data
  config.update({
    'name': 'folder', 'path': str(path), 'batch_size': batch_size, 'num_frames': num_frames, 'height': size[0],
    'width': size[1], 'text': 'none',
  })  # fmt: skip
  return config


def bare_loop(files: Sequence[Path], rng: np.random.Generator, num_clips: int, num_frames: int) -> int:
  """Decodes so many random windows; returns the number of frames in them."""
  import av

  decoded = 0
  for file in rng.choice(files, num_clips):
    start = int(rng.integers(data.probe(file).num_frames - num_frames + 1))
    with av.open(str(file)) as container:
      stream = container.streams.video[0]
      stream.thread_type, stream.codec_context.thread_count = 'NONE', 1
      first = round(start / stream.average_rate / stream.time_base)
      container.seek(first, stream=stream, backward=True)
      frames = (frame.to_ndarray(format='rgb24') for frame in container.decode(stream) if frame.pts >= first)
      decoded += len(np.stack(list(itertools.islice(frames, num_frames))))
  return decoded


def when_idle() -> float:
  """Waits until this process has nothing to do, a minute at most; the processor seconds that it has used."""
  used = time.process_time()
  for _ in range(round(60 / IDLE_SECONDS)):
    time.sleep(IDLE_SECONDS)
    before, used = used, time.process_time()
    if used - before < 0.02 * IDLE_SECONDS:
      break
  return used


def compare(path: Path, args: argparse.Namespace) -> dict[str, Any]:
  """Clips per second of processor time of both, and their ratio: medians over rounds."""
  config, rng = settings(path, args.batch, args.num_frames, tuple(args.size)), np.random.default_rng(0)
  files, num_clips = sorted(path.rglob('*.mp4')), args.batches * args.batch
  stream = data.build(config, None, seed=0)
  next(stream)
  ours, theirs = [], []
  for _ in range(args.rounds):
    start = when_idle()
    for _ in range(args.batches):
      next(stream)
    middle = when_idle()
    bare_loop(files, rng, num_clips, args.num_frames)
    ours.append(num_clips / (middle - start))
    theirs.append(num_clips / (time.process_time() - middle))
  stream.close()
  return {
    'pipeline_clips_per_second_and_core': float(np.median(ours)),
    'bare_loop_clips_per_second_and_core': float(np.median(theirs)),
    'pipeline_over_bare_loop': float(np.median(np.divide(ours, theirs))),
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--path', type=Path, help='folder of mp4 files; synthesised if not given')
  parser.add_argument('--clips', type=int, default=32, help='files to synthesise')
  parser.add_argument('--file_frames', type=int, default=96, help='frames of each of them')
  parser.add_argument('--file_size', type=int, nargs=2, default=(240, 320), metavar=('H', 'W'))
  parser.add_argument('--num_frames', type=int, default=16, help='of a window')
  parser.add_argument('--size', type=int, nargs=2, default=(64, 64), metavar=('H', 'W'), help='of a batch')
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--batches', type=int, default=16, help='of a round')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--out', type=Path, help='file for the results; printed in any case')
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    if args.path is None:
      synthesise(Path(folder), args.clips, size=tuple(args.file_size), num_frames=args.file_frames)
    measured = compare(args.path or Path(folder), args)
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
