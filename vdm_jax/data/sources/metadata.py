"""`metadata.jsonl`: one line per clip, with the keys of Hugging Face's folders: file_name, text, label."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

FILE = 'metadata.jsonl'
MADE = 'captions.jsonl'  # captions that a captioner made, beside those that came with the clips
_OTHER_NAMES_OF_TEXT = ('caption', 'captions', 'prompt', 'prompts', 'description')


class Entry(NamedTuple):
  text: str  # '' when the line has none
  label: int | str | None
  origin: str  # file and line, for messages


def read_metadata(root: pathlib.Path, files: Sequence[pathlib.Path]) -> dict[str, Entry]:
  """What `files` below `root` say of each clip, by its path relative to the root; other keys are ignored.

  Paths in a file are relative to its folder. Raises ValueError naming the line if one is not such an object, names a
  clip twice or one that is not below the root, or if captions have another key than text.
  """
  entries, keys = {}, set()
  for file in files:
    check_inside(file, root)
    for origin, line in _lines(file):
      keys |= line.keys()
      name = _name(line.get('file_name'), file, root, origin)
      if name in entries:
        raise ValueError(f'{origin}: {name} is listed twice, first by {entries[name].origin}; remove one of them.')
      entries[name] = _entry(line, origin)
  misnamed = keys.intersection(_OTHER_NAMES_OF_TEXT)
  if misnamed and 'text' not in keys:
    raise ValueError(f"{files[0]}: captions have the key 'text', not {min(misnamed)!r}; rename it.")
  return entries


class Made(NamedTuple):
  """A caption that a captioner made."""

  text: str
  origin: str  # module:function


def read_made(root: pathlib.Path) -> dict[str, Made]:
  """The captions of `captions.jsonl` in the root, by clip; a last line that was cut off by a crash is skipped.

  Raises ValueError naming the line if another one is damaged.
  """
  file, made = root / MADE, {}
  if not file.is_file():
    return made
  check_inside(file, root)
  lines = file.read_text(encoding='utf-8', errors='surrogateescape').split('\n')
  for number, text in enumerate(lines[:-1], 1):  # a whole line ends
    try:
      line = json.loads(text)
      made[line['file_name']] = Made(str(line['text']), str(line['text_origin']))
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{file}, line {number}: is damaged; remove this line.') from error
  return made


def class_numbers(labels: Sequence[int | str | None], where: str) -> tuple[list[int | None], int | None]:
  """Class numbers of clips, and how many classes there are, None if clips have none.

  Numbers are kept; names are numbered in their alphabetical order. Raises ValueError unless all clips have a label, of
  one kind.
  """
  kinds = {type(label) for label in labels}
  if kinds <= {type(None)}:
    return [None] * len(labels), None
  if len(kinds) > 1:
    names = {int: 'numbers', str: 'names', type(None): 'none'}
    found = ', '.join(sorted(names[kind] for kind in kinds))
    raise ValueError(f'{where}: the labels of the clips are of several kinds ({found}); give every clip one of a kind.')
  if kinds == {int}:
    return list(labels), max(labels) + 1
  numbers = {name: number for number, name in enumerate(class_names(labels))}
  return [numbers[label] for label in labels], len(numbers)


def class_names(labels: Sequence[int | str | None]) -> tuple[str, ...] | None:
  """The names of the classes in the order of their numbers, None where labels are numbers or there are none."""
  return tuple(sorted(set(labels))) if labels and isinstance(labels[0], str) else None


def check_inside(path: pathlib.Path, root: pathlib.Path) -> None:
  """Raises ValueError if a link leads out of the root, which is a resolved path."""
  if path.is_symlink() and not path.resolve().is_relative_to(root):
    raise ValueError(f'{path} is a link to a place outside of data.path; copy the file instead.')


def _lines(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  with open(file, encoding='utf-8', errors='replace') as lines:
    for number, text in enumerate(lines, 1):
      if not text.strip():
        continue
      origin = f'{file}, line {number}'
      try:
        line = json.loads(text)
      except ValueError as error:
        raise ValueError(f'{origin}: is not JSON ({error}); write one object per line.') from error
      if not isinstance(line, dict) or not isinstance(line.get('file_name'), str) or not line['file_name']:
        raise ValueError(
          f'{origin}: an object with the key file_name is needed, such as '
          '{"file_name": "a.mp4", "text": "a red ball rolls"}.'
        )
      yield origin, line


def _name(name: str, file: pathlib.Path, root: pathlib.Path, origin: str) -> str:
  path = pathlib.PurePosixPath(name)
  if path.is_absolute() or '..' in path.parts or '\0' in name or '\\' in name or '://' in name or not path.parts:
    raise ValueError(f'{origin}: file_name={name!r} is not a path below the folder of this file; copy the clip there.')
  return (file.parent.relative_to(root) / path).as_posix()


def _entry(line: dict[str, Any], origin: str) -> Entry:
  text, label = line.get('text'), line.get('label')
  if text is not None and not isinstance(text, str):
    raise ValueError(f'{origin}: text={text!r} is not a string.')
  if isinstance(label, bool) or not isinstance(label, int | str | None) or (isinstance(label, int) and label < 0):
    raise ValueError(f'{origin}: label={label!r} is neither a class number, 0 or more, nor the name of a class.')
  return Entry(' '.join((text or '').split()), label, origin)
