"""The files below a data folder: under which names, through which links, and what is never opened."""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vdm_jax.data.sources.contract import OutsideError
from vdm_jax.inputs.captions import composed

TEXT_SUFFIX = '.txt'
# Of files that are not read although captions may be in them.
OTHER_TEXTS = ('.json', '.jsonl', '.csv', '.tsv', '.parquet', '.caption', '.srt', '.vtt', '.xlsx')
FOLLOW = 'data.follow_links=True'


class Listing(NamedTuple):
  """What a walk finds. Names are paths relative to the root, with forward slashes, in Unicode normal form C."""

  clips: set[str]
  texts: set[str]  # text files, their suffix in lower case
  on_disk: dict[str, str]  # the paths of clips and texts that are stored under another one than their name
  described: list[pathlib.Path]  # metadata files
  unread: list[pathlib.Path]  # files of OTHER_TEXTS
  remarks: list[str]  # what was left out, for reports


def list_files(
  root: pathlib.Path,
  clips_in: Callable[[pathlib.Path, Sequence[str], Sequence[str]], Sequence[str]],
  metadata_files: Sequence[str],
  *,
  follow_links: bool,
) -> Listing:
  """List what is below a folder; hidden files and folders are skipped.

  Args:
    root: the folder, resolved.
    clips_in: of (folder, its subfolders, its files): those that are clips, or '.' for the folder itself.
    metadata_files: names of metadata files.
    follow_links: whether links may lead out of the root; links to folders are followed only then.

  Raises:
    OutsideError: a clip is a link out of the root.
    ValueError: links form a loop, two clips have one name, or a folder has two metadata files.
  """
  found = Listing(set(), set(), {}, [], [], [])
  bounds = None if follow_links else root
  unreadable: list[OSError] = []
  identities: dict[str, tuple[tuple[int, int], ...]] = {}  # of a folder and those above it
  for folder, subfolders, files in os.walk(root, onerror=unreadable.append, followlinks=follow_links):
    here = pathlib.Path(folder)
    subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
    if follow_links:
      _check_loop(here, identities)
    elif links := [name for name in subfolders if os.path.islink(here / name)]:
      found.remarks.append(f'{here / links[0]} is a link to a folder, which is not followed; set {FOLLOW} to follow it')
    for name in clips_in(here, subfolders, files):
      check_link(here / name, bounds)
      _add(found.clips, (here / name).relative_to(root).as_posix(), found.on_disk, str)
    for name in files:
      if name.lower().endswith(TEXT_SUFFIX) and not name.startswith('.'):
        _add(found.texts, (here / name).relative_to(root).as_posix(), found.on_disk, _lower_suffix)
    described = [name for name in metadata_files if name in files]
    if len(described) > 1:
      raise ValueError(f'{here} has both {" and ".join(described)}; keep one of them.')
    found.described.extend(here / name for name in described)
    others = [name for name in files if name.lower().endswith(OTHER_TEXTS) and not name.startswith('.')]
    found.unread.extend(here / name for name in others if name not in metadata_files)
  found.remarks.extend(f'{error.filename} cannot be read ({error.strerror})' for error in unreadable)
  return found


def check_link(path: pathlib.Path, root: pathlib.Path | None) -> None:
  """Raise OutsideError if the path is a link that leads out of the root, which must be resolved; None: it may."""
  if root is not None and path.is_symlink() and not path.resolve().is_relative_to(root):
    raise OutsideError(
      f'{path} is a link to a place outside data.path; copy the file instead, or set {FOLLOW} if you trust '
      'the links of this folder.'
    )


def check_inside(path: pathlib.Path, root: pathlib.Path | None) -> None:
  """Check that a file or folder may be opened. What does not exist passes: opening it raises.

  Raises:
    OutsideError: as `check_link` does.
    ValueError: the path is, or links to, a device, a pipe or a socket, which might block or never end.
  """
  check_link(path, root)
  try:
    mode = path.stat().st_mode
  except OSError:
    return
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
    raise ValueError(f'{path}: is a device, pipe or socket, which is never opened; remove it.')


def _add(names: set[str], path: str, on_disk: dict[str, str], form: Callable[[str], str]) -> None:
  """Add the name of a path, which must be new."""
  name = form(composed(path))
  if name in names and name.endswith(TEXT_SUFFIX):
    raise ValueError(f'{path} and {on_disk.get(name, name)} are captions of one clip; keep one of them.')
  if name in names:
    raise ValueError(
      f'{path!a} and {on_disk.get(name, name)!a} are the same name in different Unicode forms; rename one of them.'
    )
  names.add(name)
  if name != path:
    on_disk[name] = path


def _lower_suffix(name: str) -> str:
  return name[: -len(TEXT_SUFFIX)] + TEXT_SUFFIX


def _check_loop(folder: pathlib.Path, identities: dict[str, tuple[tuple[int, int], ...]]) -> None:
  status = os.stat(folder)
  identity, above = (status.st_dev, status.st_ino), identities.get(str(folder.parent), ())
  if identity in above:
    raise ValueError(f'{folder} leads back to a folder above it, so its clips would repeat without end; remove it.')
  identities[str(folder)] = (*above, identity)
