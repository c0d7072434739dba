"""Inspect, convert and caption stored clips.

    python -m vdm_jax.data inspect clips --num_frames=16 --sheet=clips.png
    python -m vdm_jax.data convert clips clips_64 --size=64x64
    python -m vdm_jax.data caption clips --captioner=my_module:describe

A path is recognized by its files, or written as KIND:PATH, such as pictures:FOLDER; `--help` lists the kinds. `caption`
imports the module and calls its function with the frames of each clip without a caption, uint8 [t h w 3]; the caption
that it returns is stored in captions.jsonl of the folder. `inspect` exits with status 1 and the reason if training
could not start, and `caption` if a clip is left without a caption.
"""

from __future__ import annotations

import argparse
import pkgutil
import re
import sys
from collections.abc import Callable, Sequence

import vdm_jax.runtime.loading  # noqa: F401, isort: skip (shows "loading" while the imports below last)
from vdm_jax.data import captioning
from vdm_jax.data.conversion import CLIPS_PER_SHARD, convert
from vdm_jax.data.inspection import SHOWN, inspect
from vdm_jax.data.sources.catalog import KINDS, open_stored
from vdm_jax.data.sources.records import Records
from vdm_jax.data.sources.stored_clips import StoredClips
from vdm_jax.errors import ExitStatus
from vdm_jax.inputs.paths import path_argument
from vdm_jax.runtime import progress
from vdm_jax.video.writing import write_png

INCOMPLETE = 1  # exit status of `caption` if clips are left without a caption


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command and return its exit status."""
  args = _parser().parse_args(argv)
  try:
    with progress.show(f'{args.run.__name__.strip("_")}'):
      return args.run(args)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return ExitStatus.INVALID_INPUT


def _inspect(args: argparse.Namespace) -> int:
  if args.target_frame_rate < 0:
    raise ValueError(f'--target_frame_rate={args.target_frame_rate} must be 0 or more.')
  if args.text_length < 1:
    raise ValueError(f'--text_length={args.text_length} must be 1 or more.')
  if args.num_frames < 1 or args.frame_skip < 1:
    raise ValueError(f'--num_frames={args.num_frames} --frame_skip={args.frame_skip}: both must be 1 or more.')
  found, sheet = inspect(
    args.path,
    follow_links=args.follow_links,
    text_length=args.text_length,
    num_frames=args.num_frames,
    frame_skip=args.frame_skip,
    frame_rate=args.frame_rate,
    target_frame_rate=args.target_frame_rate,
    max_bad_share=args.max_bad_share,
    decode=not args.quick,
  )
  print(found.report())
  if sheet is not None and args.sheet:
    write_png(args.sheet, sheet)
    print(f'contact sheet: {args.sheet}')
  return 0 if found.problem is None else ExitStatus.CANNOT_TRAIN


def _convert(args: argparse.Namespace) -> int:
  if args.clips_per_shard < 1:
    raise ValueError(f'--clips_per_shard={args.clips_per_shard} must be 1 or more.')
  opening = {'num_frames': 1, 'train_on_all': True, 'follow_links': args.follow_links}
  _, clips = open_stored(args.source, 'train', frame_rate=args.frame_rate, **opening)
  convert(
    clips,
    args.destination,
    size=_size(args.size),
    clips_per_shard=args.clips_per_shard,
    max_bad_share=args.max_bad_share,
  )
  rate = _missing_frame_rate(clips, args.destination)
  print(f'train with --config.data.name=records --config.data.path={args.destination}{rate}')
  return 0


def _missing_frame_rate(clips: StoredClips, destination: str) -> str:
  """Return the flag that training on converted clips needs, if some have no frame rate."""
  converted = Records(destination)
  if clips.source.single_frame or converted.without_frame_rate is None:
    return ''
  return (
    ' --config.data.frame_rate=RATE\n'
    f'RATE is the frames per second of clips without a frame rate, such as {converted.without_frame_rate}; '
    '`convert --frame_rate=RATE` stores it with them'
  )


def _caption(args: argparse.Namespace) -> int:
  if args.max_frames < 1:
    raise ValueError(f'--max_frames={args.max_frames} must be 1 or more.')
  _, clips = open_stored(args.path, 'train', num_frames=1, train_on_all=True, follow_links=args.follow_links)
  captioner = _function(args.captioner)
  made, failures = captioning.caption(clips, captioner, args.captioner, max_frames=args.max_frames)
  print(f'{args.path}: {made} captions made by {args.captioner}, {len(failures)} clips left without a caption')
  for reason in list(failures.values())[:SHOWN]:
    print(f'  {reason}')
  return INCOMPLETE if failures else 0


def _function(name: str) -> Callable:
  """Import the function that `module:function` names: the user's own code, which runs because the user named it."""
  form = f'--captioner={name} is not a valid function; write module:function, with a module that Python can import here'
  if not re.fullmatch(r'[\w.]+:[\w.]+', name):
    raise ValueError(f'{form}.')
  try:
    found = pkgutil.resolve_name(name)
  except Exception as error:  # the module may raise anything while it is imported
    raise ValueError(f'{form} ({type(error).__name__}: {error}).') from error
  if not callable(found):
    raise ValueError(f'{form} (this is a {type(found).__name__}).')
  return found


def _size(text: str | None) -> tuple[int, int] | None:
  if text is None:
    return None
  if not (match := re.fullmatch(r'([1-9][0-9]*)x([1-9][0-9]*)', text)):
    raise ValueError(f'--size={text} is not a valid size; write the height and the width, such as 64x64.')
  return int(match[1]), int(match[2])


def _kinds() -> str:
  """Return a line for each kind of stored clips: its name, and the first line of its description."""
  stored = {name: kind.source for name, kind in KINDS.items() if kind.source is not None}
  return '\n'.join(f'  {name:10} {(source.__doc__ or "").strip().split(chr(10))[0]}' for name, source in stored.items())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    'python -m vdm_jax.data',
    description=f'{__doc__}\nkinds of stored clips:\n{_kinds()}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  shared = argparse.ArgumentParser(add_help=False)
  shared.add_argument('--frame_rate', type=float, default=0.0, help='frames per second of clips without a frame rate')
  shared.add_argument('--max_bad_share', type=float, default=0.05, help='fraction of the clips that may be unusable')
  links = argparse.ArgumentParser(add_help=False)
  links.add_argument('--follow_links', action='store_true', help='data.follow_links: links may lead out of the folder')
  commands = parser.add_subparsers(required=True)
  look = commands.add_parser(
    'inspect', parents=[shared, links], help='count clips, draw histograms, and check whether training can start'
  )
  look.add_argument('path')
  look.add_argument('--num_frames', type=int, default=16, help='data.num_frames of the planned training')
  look.add_argument('--frame_skip', type=int, default=1, help='data.frame_skip, or the largest one')
  look.add_argument('--target_frame_rate', type=float, default=0.0, help='data.target_frame_rate')
  look.add_argument(
    '--text_length', type=int, default=32, help='data.text_length, longer captions than which are counted'
  )
  look.add_argument('--sheet', type=path_argument, default='', help='PNG file that a contact sheet is written to')
  look.add_argument('--quick', action='store_true', help='open the files without decoding them')
  look.set_defaults(run=_inspect)
  write = commands.add_parser(
    'convert', parents=[shared, links], help='write ArrayRecord shards; can be interrupted and resumed'
  )
  write.add_argument('source')
  write.add_argument('destination', type=path_argument, help='new folder, or one where this command was interrupted')
  write.add_argument('--size', help='HxW that frames are scaled to cover and cropped to; by default pixels are kept')
  write.add_argument('--clips_per_shard', type=int, default=CLIPS_PER_SHARD)
  write.set_defaults(run=_convert)
  describe = commands.add_parser(
    'caption', parents=[links], help='add missing captions; can be interrupted and resumed, and replaces no caption'
  )
  describe.add_argument('path')
  describe.add_argument('--captioner', required=True, help='module:function')
  describe.add_argument(
    '--max_frames', type=int, default=captioning.MAX_FRAMES, help='frames of a clip that it receives, evenly spread'
  )
  describe.set_defaults(run=_caption)
  return parser


if __name__ == '__main__':
  sys.exit(main())
