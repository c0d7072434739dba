"""Descriptions of clips beside the clips: `metadata.jsonl` and `captions.jsonl`.

`metadata.jsonl` has one line per clip, with the keys of a Hugging Face folder data set: file_name, text, label.
`captions.jsonl` has the captions that `python -m vdm_jax.data caption` made.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vdm_jax.data.sources.contract import OutsideError

FILE = 'metadata.jsonl'
GENERATED_CAPTIONS = 'captions.jsonl'
_OTHER_NAMES_OF_TEXT = ('caption', 'captions', 'prompt', 'prompts', 'description')


class Entry(NamedTuple):
  """A line of `metadata.jsonl`."""

  text: str  # '' when the line has none
  label: int | str | None
  origin: str  # file and line, for messages


def read_metadata(root: pathlib.Path, files: Sequence[pathlib.Path]) -> dict[str, Entry]:
  """Return the entries of metadata files, by the path of their clip relative to the root; other keys are ignored.

  Args:
    root: folder of all clips.
    files: metadata files below it. The paths in a file are relative to its folder.

  Raises:
    ValueError: a line is not such an object, repeats a clip, or names one that is not below the root, or the captions
      have another key than text. The message names the line.
  """
  entries, keys = {}, set()
  for file in files:
    check_inside(file, root)
    for origin, line in _lines(file):
      keys |= line.keys()
      name = _name(line.get('file_name'), file, root, origin)
      if name in entries:
        raise ValueError(f'{origin}: {name} is listed twice, first in {entries[name].origin}; remove one of them.')
      entries[name] = _entry(line, origin)
  misnamed = keys.intersection(_OTHER_NAMES_OF_TEXT)
  if misnamed and 'text' not in keys:
    raise ValueError(f"{files[0]}: captions have the key 'text', not {min(misnamed)!r}; rename it.")
  return entries


class GeneratedCaption(NamedTuple):
  """A caption that a captioner made."""

  text: str
  origin: str  # module:function
  file_hash: str  # of the file that it describes, see `StoredClips.file_hash`; '' in lists of older versions


def read_generated(root: pathlib.Path) -> dict[str, GeneratedCaption]:
  """Return the captions of `captions.jsonl` in the root, by clip; a last line that a crash cut off is skipped.

  Raises ValueError, naming the line, if another one is damaged.
  """
  file, found = root / GENERATED_CAPTIONS, {}
  if not file.is_file():
    return found
  check_inside(file, root)
  lines = file.read_text(encoding='utf-8', errors='surrogateescape').split('\n')
  for number, text in enumerate(lines[:-1], 1):  # every complete line ends with a newline
    try:
      line = json.loads(text)
      found[line['file_name']] = GeneratedCaption(
        str(line['text']), str(line['text_origin']), str(line.get('file_hash', ''))
      )
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{file}, line {number}: is damaged; remove this line.') from error
  return found


def class_numbers(labels: Sequence[int | str | None], where: str) -> tuple[list[int | None], int | None]:
  """Number the classes of clips.

  Args:
    labels: a class number (kept), a class name (numbered in alphabetical order) or None, for each clip.
    where: the data set, for the message.

  Returns:
    The class number of each clip, and the number of classes, None if clips have none.

  Raises:
    ValueError: the labels mix numbers, names and None.

  >>> class_numbers(['dog', 'cat', 'dog'], 'clips')
  ([1, 0, 1], 2)
  """
  kinds = {type(label) for label in labels}
  if kinds <= {type(None)}:
    return [None] * len(labels), None
  if len(kinds) > 1:
    names = {int: 'numbers', str: 'names', type(None): 'none'}
    found = ', '.join(sorted(names[kind] for kind in kinds))
    raise ValueError(f'{where}: the labels of the clips mix {found}; give every clip a number, or every clip a name.')
  if kinds == {int}:
    return list(labels), max(labels) + 1
  numbers = {name: number for number, name in enumerate(class_names(labels))}
  return [numbers[label] for label in labels], len(numbers)


def class_names(labels: Sequence[int | str | None]) -> tuple[str, ...] | None:
  """Return the names of the classes in the order of their numbers; None if labels are numbers or there are none."""
  return tuple(sorted(set(labels))) if labels and isinstance(labels[0], str) else None


def check_inside(path: pathlib.Path, root: pathlib.Path) -> None:
  """Raise OutsideError if the path is a link that leads out of the root, which must be resolved."""
  if path.is_symlink() and not path.resolve().is_relative_to(root):
    raise OutsideError(f'{path} is a link to a place outside data.path; copy the file instead.')


def _lines(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yield (file and line number, object) of each line that is not blank."""
  with open(file, encoding='utf-8', errors='replace') as lines:
    for number, text in enumerate(lines, 1):
      if not text.strip():
        continue
      origin = f'{file}, line {number}'
      try:
        line = json.loads(text)
      except ValueError as error:
        raise ValueError(f'{origin}: is not valid JSON ({error}); write one object per line.') from error
      if not isinstance(line, dict) or not isinstance(line.get('file_name'), str) or not line['file_name']:
        raise ValueError(
          f'{origin}: must be an object with the key file_name, such as '
          '{"file_name": "a.mp4", "text": "a red ball rolls"}.'
        )
      yield origin, line


def _name(name: str, file: pathlib.Path, root: pathlib.Path, origin: str) -> str:
  """Return the path of a clip relative to the root; raise if it leads out of the folder of its metadata file."""
  path = pathlib.PurePosixPath(name)
  if path.is_absolute() or '..' in path.parts or '\0' in name or '\\' in name or '://' in name or not path.parts:
    raise ValueError(f'{origin}: file_name={name!r} is not a path below the folder of this file; copy the clip there.')
  return (file.parent.relative_to(root) / path).as_posix()


def _entry(line: dict[str, Any], origin: str) -> Entry:
  text, label = line.get('text'), line.get('label')
  if text is not None and not isinstance(text, str):
    raise ValueError(f'{origin}: text={text!r} is not a string.')
  if isinstance(label, bool) or not isinstance(label, int | str | None) or (isinstance(label, int) and label < 0):
    raise ValueError(f'{origin}: label={label!r} is not a valid class number (0 or more) or class name.')
  return Entry(' '.join((text or '').split()), label, origin)
