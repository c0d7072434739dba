"""Looks at data, and converts it.

    python -m vdm_jax.data inspect clips --num_frames=16 --sheet=clips.png
    python -m vdm_jax.data convert clips clips_64 --size=64x64

A path is a folder of clips, a .npy file of uint8 [n t h w c], a folder that `convert` wrote, or a prepared data set of
TensorFlow Datasets. `inspect` ends with status 1 and the reason where training could not start.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from vdm_jax.data.conversion import CLIPS_PER_SHARD, convert
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources import open_stored
from vdm_jax.data.video_io import write_png

CANNOT_TRAIN = 1  # exit status
BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
  args = _parser().parse_args(argv)
  try:
    return args.run(args)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return BAD_INPUT


def _inspect(args: argparse.Namespace) -> int:
  if args.num_frames < 1 or args.frame_skip < 1:
    raise ValueError(f'--num_frames={args.num_frames} --frame_skip={args.frame_skip}: both must be 1 or more.')
  found, sheet = inspect(
    args.path,
    num_frames=args.num_frames,
    frame_skip=args.frame_skip,
    frame_rate=args.frame_rate,
    max_bad_share=args.max_bad_share,
    decode=not args.quick,
  )
  print(found.report())
  if sheet is not None and args.sheet:
    write_png(args.sheet, sheet)
    print(f'contact sheet: {args.sheet}')
  return 0 if found.problem is None else CANNOT_TRAIN


def _convert(args: argparse.Namespace) -> int:
  if args.clips_per_shard < 1:
    raise ValueError(f'--clips_per_shard={args.clips_per_shard}, but it must be 1 or more.')
  _, source = open_stored(args.source, 'train', num_frames=1, frame_rate=args.frame_rate, train_on_all=True)
  convert(
    source,
    args.destination,
    size=_size(args.size),
    clips_per_shard=args.clips_per_shard,
    max_bad_share=args.max_bad_share,
  )
  print(f'train with --config.data.name=records --config.data.path={args.destination}')
  return 0


def _size(text: str | None) -> tuple[int, int] | None:
  if text is None:
    return None
  if not (match := re.fullmatch(r'([1-9][0-9]*)x([1-9][0-9]*)', text)):
    raise ValueError(f'--size={text} is not a height and a width, such as 64x64.')
  return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    'python -m vdm_jax.data', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  shared = argparse.ArgumentParser(add_help=False)
  shared.add_argument('--frame_rate', type=float, default=0.0, help='of clips that do not tell theirs')
  shared.add_argument('--max_bad_share', type=float, default=0.05, help='share of the clips that may be unusable')
  commands = parser.add_subparsers(required=True)
  look = commands.add_parser('inspect', parents=[shared], help='counts, histograms, and whether training can start')
  look.add_argument('path')
  look.add_argument('--num_frames', type=int, default=16, help='data.num_frames of the training that is planned')
  look.add_argument('--frame_skip', type=int, default=1, help='data.frame_skip, or the largest one')
  look.add_argument('--sheet', default='inspect.png', help='PNG to write; empty for none')
  look.add_argument('--quick', action='store_true', help='open the files, but decode none')
  look.set_defaults(run=_inspect)
  write = commands.add_parser('convert', parents=[shared], help='write ArrayRecord shards; resumes')
  write.add_argument('source')
  write.add_argument('destination', help='new folder, or one that this command was interrupted on')
  write.add_argument('--size', help='HxW that frames are scaled to cover and cut to; as they are by default')
  write.add_argument('--clips_per_shard', type=int, default=CLIPS_PER_SHARD)
  write.set_defaults(run=_convert)
  return parser


if __name__ == '__main__':
  sys.exit(main())
