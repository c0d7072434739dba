"""Descriptions of clips beside the clips: `metadata.jsonl`, `.csv` or `.parquet`, and `captions.jsonl`.

Metadata have one line or row per clip, with the keys of a Hugging Face folder data set: file_name, text, label.
`captions.jsonl` has the captions that `python -m vdm_jax.data caption` made.
"""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vdm_jax.data.sources.walking import check_inside
from vdm_jax.inputs.captions import clean, composed
from vdm_jax.inputs.text_files import read_lines

FILE = 'metadata.jsonl'
GENERATED_CAPTIONS = 'captions.jsonl'
_OTHER_NAMES_OF_TEXT = ('caption', 'captions', 'prompt', 'prompts', 'description')


class Entry(NamedTuple):
  """The description of a clip in metadata."""

  text: str  # '' when there is none
  label: int | str | None
  origin: str  # file and line, for messages


def read_metadata(root: pathlib.Path, files: Sequence[pathlib.Path], *, follow_links: bool = False) -> dict[str, Entry]:
  """Return the entries of metadata files, by the name of their clip; other keys are ignored.

  Args:
    root: folder of all clips.
    files: metadata files below it. The paths in a file are relative to its folder.
    follow_links: whether a file may be a link out of the root.

  Raises:
    ValueError: a line is not such an object, repeats a clip, or names one that is not below the root, or the captions
      have another key than text. The message names the line.
  """
  entries, keys = {}, set()
  for file in files:
    check_inside(file, None if follow_links else root)
    for origin, line in _READERS[file.suffix](file):
      keys |= line.keys()
      if not isinstance(line.get('file_name'), str) or not line['file_name']:
        raise ValueError(f'{origin}: has no file_name, the path of the clip; add it.')
      name = _name(line['file_name'], file, root, origin)
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


def read_generated(root: pathlib.Path, *, follow_links: bool = False) -> dict[str, GeneratedCaption]:
  """Return the captions of `captions.jsonl` in the root, by clip; a last line that a crash cut off is skipped.

  Raises ValueError, naming the line, if another one is damaged.
  """
  file, found = root / GENERATED_CAPTIONS, {}
  if not file.is_file():
    return found
  check_inside(file, None if follow_links else root)
  with open(file, 'rb') as content:
    complete = content.read().endswith(b'\n')
  lines = list(read_lines(file))
  for number, text in enumerate(lines if complete else lines[:-1], 1):
    try:
      line = json.loads(text)
      found[composed(line['file_name'])] = GeneratedCaption(
        clean(str(line['text'])), str(line['text_origin']), str(line.get('file_hash', ''))
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


def _json_lines(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yield (file and line number, object) of each line that is not blank."""
  for number, text in enumerate(read_lines(file), 1):
    if not text.strip():
      continue
    origin = f'{file}, line {number}'
    try:
      line = json.loads(text)
    except ValueError as error:
      raise ValueError(f'{origin}: is not valid JSON ({error}); write one object per line.') from error
    if not isinstance(line, dict):
      raise ValueError(
        f'{origin}: must be an object with the key file_name, such as '
        '{"file_name": "a.mp4", "text": "a red ball rolls"}.'
      )
    yield origin, line


def _csv_rows(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yield (file and line number, row) of each row of a table with a header; commas, semicolons or tabs separate."""
  header = next(iter(read_lines(file)), '')
  delimiter = max(',;\t', key=header.count)  # Excel writes semicolons where the comma is the decimal sign
  reader = csv.DictReader((f'{line}\n' for line in read_lines(file)), delimiter=delimiter, strict=True)
  try:
    reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
    if 'file_name' not in columns or len(set(columns)) < len(columns):
      raise ValueError(
        f'{file}: has the columns {", ".join(columns)}, but needs file_name and text, each once, in its first line.'
      )
    rows = [(f'{file}, line {reader.line_num}', row) for row in reader]
  except csv.Error as error:
    raise ValueError(
      f'{file}, line {reader.reader.line_num}: is not valid CSV ({error}); quote the caption.'
    ) from error
  numbered = all(_is_number(row['label']) for _, row in rows) if 'label' in columns else False
  for origin, row in rows:
    if None in row or None in row.values():
      raise ValueError(
        f'{origin}: does not have the {len(columns)} columns of the first line; quote captions with {delimiter!r}.'
      )
    if 'label' in row:
      row['label'] = int(row['label']) if numbered else row['label'] or None
    yield origin, row


def _is_number(text: str | None) -> bool:
  return text is not None and text.isascii() and text.isdigit()


def _parquet_rows(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yield (file and row number, row) of each row."""
  try:
    from pyarrow import ArrowException, parquet  # optional
  except ImportError as error:
    raise ValueError(f'{file}: reading it needs pyarrow; `pip install pyarrow`, or save it as {FILE}.') from error
  try:
    rows = parquet.read_table(file).to_pylist()
  except ArrowException as error:
    raise ValueError(f'{file}: is not a valid Parquet file ({error}); write it again.') from error
  for number, row in enumerate(rows, 1):
    yield f'{file}, row {number}', row


_READERS = {'.jsonl': _json_lines, '.csv': _csv_rows, '.parquet': _parquet_rows}
FILES = tuple(f'metadata{suffix}' for suffix in _READERS)


def _name(name: str, file: pathlib.Path, root: pathlib.Path, origin: str) -> str:
  """Return the path of a clip relative to the root; raise if it leads out of the folder of its metadata file."""
  path = pathlib.PurePosixPath(name if ':' in name else name.replace('\\', '/'))  # as Windows writes them
  if path.is_absolute() or '..' in path.parts or '\0' in name or '\\' in str(path) or '://' in name or not path.parts:
    raise ValueError(f'{origin}: file_name={name!r} is not a path below the folder of this file; copy the clip there.')
  return composed((file.parent.relative_to(root) / path).as_posix())


def _entry(line: dict[str, Any], origin: str) -> Entry:
  text, label = line.get('text'), line.get('label')
  if text is not None and not isinstance(text, str):
    raise ValueError(f'{origin}: text={text!r} is not a string; give one caption.')
  if text is not None and any('\ud800' <= character <= '\udfff' for character in text):
    raise ValueError(f'{origin}: text={text!a} has half of a character (a lone surrogate); write it again as UTF-8.')
  if isinstance(label, bool) or not isinstance(label, int | str | None) or (isinstance(label, int) and label < 0):
    raise ValueError(f'{origin}: label={label!r} is not a valid class number (0 or more) or class name.')
  return Entry(clean(text or ''), label, origin)
