"""Tables of clips: Parquet files, and data sets that Hugging Face's `datasets` saved. `data.name='parquet'`."""

from __future__ import annotations

import json
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from vdm_jax.data.sources import metadata
from vdm_jax.data.sources.archives import members
from vdm_jax.data.sources.archives.members import CAPTION_KEYS
from vdm_jax.data.sources.contract import held_out_by_hash
from vdm_jax.data.sources.folder import SUFFIXES, TEST
from vdm_jax.data.sources.walking import check_inside
from vdm_jax.inputs.captions import clean

VIDEO_KEYS = ('video', 'clip', 'mp4', 'bytes')  # columns that hold clips; the first one that is there
LAYOUT = (
  'Such a folder holds .parquet files, or is one that datasets.save_to_disk wrote, with a column video (the bytes of '
  'files, or their paths below the folder) and optionally text or caption, and label.'
)
_FILES = ('.parquet', '.arrow')
_MAGIC = {b'\x1aE\xdf\xa3': '.mkv', b'RIFF': '.avi', b'GIF8': '.gif', b'\x93NUM': '.npy'}


class _Row(NamedTuple):
  file: int  # number of the table
  group: int  # of its row groups or batches
  place: int  # in the group


class Parquet(members.Archive):
  """The clips in a column of Parquet or Arrow files, in the order of the files and rows.

  The column is video, or another one of VIDEO_KEYS: bytes of a file (mp4, mkv, webm, avi, gif, npy), paths relative to
  the folder, or `datasets`' records of both. Captions are the column text or caption, labels the column label, whose
  names `datasets` records. Row i of a file is named 'FILE/i' with leading zeros. Files in folders or with names that
  begin with test, val or validation are the test split if others are not.

  Reading a row of a Parquet file reads its row group; convert files with large ones. Arrow files are mapped.

  Raises FileNotFoundError if there are no such files, and ValueError if one is damaged or lacks the column.
  """

  follows_links = True

  def __init__(self, path: str | os.PathLike, *, follow_links: bool = False):
    super().__init__()
    self.path = os.fspath(path)
    root = pathlib.Path(path)
    if not self.path or not root.exists():
      raise FileNotFoundError(f'data.path={self.path!r} is not a folder or a .parquet file; check the path. {LAYOUT}')
    self._root = (root if root.is_dir() else root.parent).resolve()
    self._bounds = None if follow_links else self._root
    self._files = _files(self._root) if root.is_dir() else [root.resolve()]
    if not self._files:
      raise FileNotFoundError(f'data.path={self.path!r} has no {" or ".join(_FILES)} files. {LAYOUT}')
    self._rows: list[_Row] = []
    self.names, captions, labels = [], [], []
    classes = None
    for number, file in enumerate(self._files):
      check_inside(file, self._bounds)
      table = _Table(file)
      self._rows += [_Row(number, group, place) for group, size in enumerate(table.sizes) for place in range(size)]
      name = file.relative_to(self._root).as_posix()
      self.names += [f'{name}/{row:06d}' for row in range(sum(table.sizes))]
      captions += table.texts(CAPTION_KEYS)
      labels += table.labels()
      classes = classes or table.class_names
    if not self.names:
      raise ValueError(f'data.path={self.path!r} has no rows. {LAYOUT}')
    self._captions = [clean(caption or '') for caption in captions]
    self._labels, self.num_classes = metadata.class_numbers(labels, self.path)
    self.class_names = classes or metadata.class_names(labels)
    self.num_classes = len(classes) if classes and self.num_classes else self.num_classes
    self._open: dict[int, _Table] = {}
    self.without_frame_rate = None  # the rows say no more without being read

  def _is_inside(self, file: pathlib.Path) -> bool:
    return self._bounds is None or file.resolve().is_relative_to(self._bounds)

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_open': {}}

  @classmethod
  def recognizes(cls, path: pathlib.Path) -> bool:
    return members.holds_only(path, _FILES)

  def caption(self, clip: int) -> str:
    return self._captions[clip]

  def label(self, clip: int) -> int | None:
    return self._labels[clip]

  def held_out(self) -> set[str]:
    test = {name for name in self.names if any(part.startswith(TEST) for part in name.split('/')[:-1])}
    return test if 0 < len(test) < len(self.names) else held_out_by_hash(self.names)

  def _where(self, clip: int) -> str:
    return f'{self._root}/{self.names[clip]}'

  def _content(self, clip: int) -> dict[str, bytes]:
    """Return the bytes of a clip by its suffix."""
    row, where = self._rows[clip], self._where(clip)
    if row.file not in self._open:
      self._open[row.file] = _Table(self._files[row.file])
    value = self._open[row.file].clip(row.group, row.place)
    content, path = (value.get('bytes'), value.get('path')) if isinstance(value, dict) else (value, None)
    if isinstance(content, str):
      content, path = None, content
    if content is None and path:
      content = self._beside(path, where)
    if not content:
      raise ValueError(f'{where}: the clip is empty; remove the row.')
    suffix = pathlib.PurePosixPath(path or '').suffix.lower()
    return {suffix if suffix in SUFFIXES else _MAGIC.get(content[:4], '.mp4'): content}

  def _beside(self, path: str, where: str) -> bytes:
    """Return the content of a file that a row names: below the folder of the tables, and no link out of it."""
    parts = pathlib.PurePosixPath(path)
    file = self._root / parts
    if parts.is_absolute() or '..' in parts.parts or '\0' in path or not self._is_inside(file):
      raise ValueError(f'{where}: the path {path!r} is not below {self._root}; copy the file there.')
    if file.suffix.lower() not in SUFFIXES:
      raise ValueError(f'{where}: {path!r} is not a clip ({", ".join(SUFFIXES)}); remove the row.')
    return file.read_bytes()


class _Table:
  """One file: its rows by group, with only the columns that are needed."""

  def __init__(self, file: pathlib.Path):
    try:
      import pyarrow as pa
      import pyarrow.parquet as pq
    except ImportError as error:
      raise ValueError(f'{file}: reading tables needs pyarrow; pip install pyarrow.') from error
    self._file, self._last, self._lock = file, (None, None), threading.Lock()
    try:
      if file.suffix == '.parquet':
        self._parquet = pq.ParquetFile(file)
        self.schema = self._parquet.schema_arrow
        counts = (self._parquet.metadata.row_group(i).num_rows for i in range(self._parquet.num_row_groups))
        self.sizes = list(counts)
      else:
        self._parquet = None
        mapped = pa.memory_map(str(file))
        try:
          self._table = pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:
          self._table = pa.ipc.open_file(mapped).read_all()
        self.schema, self.sizes = self._table.schema, [self._table.num_rows]
    except (pa.ArrowException, OSError) as error:
      raise ValueError(f'{file}: is not a complete table ({str(error).splitlines()[0]}); copy it again.') from error
    self.video = next((name for name in VIDEO_KEYS if name in self.schema.names), None)
    if self.video is None:
      raise ValueError(
        f'{file}: has the columns {", ".join(self.schema.names)}, but clips are read from {", ".join(VIDEO_KEYS)}; '
        'rename the column of the clips to video.'
      )
    kind = self.schema.field(self.video).type
    parts = {kind.field(i).name for i in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    simple = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    if not (parts & {'bytes', 'path'} or any(is_kind(kind) for is_kind in simple)):
      raise ValueError(f'{file}: the column {self.video} has the type {kind}; it must hold bytes or paths of files.')
    self.class_names = self._class_names()

  def clip(self, group: int, place: int) -> Any:
    """Return the value of a row in the column of clips."""
    if self._parquet is None:
      return self._table.column(self.video)[place].as_py()
    with self._lock:
      number, rows = self._last
      if number != group:
        rows = self._read(self.video, group)
        self._last = (group, rows)  # the next row is often of this group
    return rows[place].as_py()

  def texts(self, names: Sequence[str]) -> list[str | None]:
    """Return the values of the first of these columns that is there; None for each row if none is."""
    name = next((name for name in names if name in self.schema.names), None)
    values = self._column(name) if name else [None] * sum(self.sizes)
    if not all(isinstance(value, str | None) for value in values):
      raise ValueError(f'{self._file}: the column {name} does not hold text; convert or remove it.')
    return values

  def labels(self) -> list[int | str | None]:
    """Return the values of the column label; None for each row if it is not there."""
    values = self._column('label') if 'label' in self.schema.names else [None] * sum(self.sizes)
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, int | str | None)]
    wrong += [value for value in values if isinstance(value, int) and value < 0]
    if wrong:
      raise ValueError(f'{self._file}: label={wrong[0]!r} is not a valid class number (0 or more) or class name.')
    return values

  def _column(self, name: str) -> list:
    if self._parquet is None:
      return self._table.column(name).to_pylist()
    return self._parquet.read(columns=[name]).column(name).to_pylist()

  def _read(self, name: str, group: int) -> Any:
    import pyarrow as pa

    try:
      return self._parquet.read_row_group(group, columns=[name]).column(name)
    except (pa.ArrowException, OSError) as error:
      raise ValueError(f'{self._file}: row group {group} is damaged ({error}); copy the file again.') from error

  def _class_names(self) -> tuple[str, ...] | None:
    """Return the names of the classes, which `datasets` stores in the schema."""
    try:
      features = json.loads((self.schema.metadata or {})[b'huggingface'])['info']['features']
      return tuple(map(str, features['label']['names']))
    except (KeyError, TypeError, ValueError):
      return None


def _files(root: pathlib.Path) -> list[pathlib.Path]:
  found = (file for suffix in _FILES for file in root.rglob(f'*{suffix}'))
  return sorted(
    file
    for file in found
    if not any(part.startswith('.') for part in file.relative_to(root).parts)
    and not file.name.startswith('cache-')  # of datasets.map
  )
