"""Reading text files that users give: captions, metadata, prompts, lists.

A byte-order mark decides between UTF-8, UTF-16 and UTF-32, as Notepad, Excel and PowerShell write them; without one a
file is UTF-8. Other encodings look alike (byte 0xE9 is é, щ or й), so they are refused rather than guessed.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

# The marks of UTF-32 begin with those of UTF-16, so they come first. These codecs read the mark and drop it.
_MARKS = (
  (codecs.BOM_UTF8, 'utf-8-sig'),
  (codecs.BOM_UTF32_LE, 'utf-32'),
  (codecs.BOM_UTF32_BE, 'utf-32'),
  (codecs.BOM_UTF16_LE, 'utf-16'),
  (codecs.BOM_UTF16_BE, 'utf-16'),
)
_BINARY = re.compile('[\0\x1b]')  # of UTF-16 without a mark; of ISO-2022 encodings and terminal colors
_LINE_END = re.compile('\r\n|\r|\n')


class UnreadableText(ValueError):
  """A text file is in another encoding; the message has the file, the line and the fix."""


def read_text(path: str | os.PathLike) -> str:
  r"""Return the text of a file, with every line end as '\n'.

  Raises:
    OSError: the file cannot be opened.
    UnreadableText: it is neither UTF-8 nor has a byte-order mark, or it contains NUL or escape characters.
  """
  return decode(path, Path(path).read_bytes())


def read_lines(path: str | os.PathLike) -> Iterator[str]:
  r"""Yield the lines of a file without their ends, which are '\n', '\r\n' or '\r'; raises as `read_text` does.

  A large file is not held in memory. Unlike `str.splitlines`, other characters that separate lines, such as U+2028 in a
  JSON string, do not end one.
  """
  with open(path, 'rb') as file:
    encoding = _encoding(file.read(4))
  with open(path, encoding=encoding) as file:
    try:
      for number, line in enumerate(file, 1):
        if _BINARY.search(line):
          raise _is_binary(path, number)
        yield line.removesuffix('\n')
    except UnicodeError:  # of a part of the file; this raises with its place in the whole
      decode(path, Path(path).read_bytes())
      raise


def decode(where: str | os.PathLike, content: bytes) -> str:
  r"""Return the text of the content of a file, with every line end as '\n'.

  Args:
    where: the file, for messages.
    content: its bytes.

  Raises:
    UnreadableText: as `read_text` does.

  >>> decode('a.txt', b'\xef\xbb\xbfa dog\r\n')
  'a dog\n'
  """
  encoding = _encoding(content)
  try:
    text = content.decode(encoding)
  except UnicodeDecodeError as error:
    line = error.object[: error.start].count(b'\n') + 1  # the object is the content without a mark of UTF-8
    wrong = f'byte 0x{error.object[error.start]:02X} at position {error.start}'
    if b'\0' in content and encoding == 'utf-8':
      raise _is_binary(where, line) from error
    if encoding == 'utf-8':
      fix = 'Save it as UTF-8; if it comes from Windows, `iconv -f WINDOWS-1252 -t UTF-8 FILE` may convert it'
    else:
      fix = f'Its byte-order mark says {_name(encoding)}; save it again as UTF-8'
    raise UnreadableText(f'{where}, line {line}: {wrong} is not valid {_name(encoding)}. {fix}.') from error
  if found := _BINARY.search(text):
    raise _is_binary(where, text[: found.start()].count('\n') + 1)
  return _LINE_END.sub('\n', text)


def _encoding(start: bytes) -> str:
  return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), 'utf-8')


def _name(encoding: str) -> str:
  return encoding.removesuffix('-sig').upper()


def _is_binary(where: str | os.PathLike, line: int) -> UnreadableText:
  return UnreadableText(
    f'{where}, line {line}: contains a NUL or escape character, so this is not a UTF-8 text file (perhaps UTF-16 '
    'without a byte-order mark). Save it as UTF-8.'
  )
