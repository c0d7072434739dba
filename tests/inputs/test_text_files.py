"""Text files as Windows, macOS and Linux tools write them, and those that are refused."""

from __future__ import annotations

import codecs

import pytest
from helpers.messages import raises

from vdm_jax.inputs.text_files import UnreadableText, read_lines, read_text
from vdm_jax.text.prompts import read_prompts

TEXT = 'a dog\nun café 東京\n'
# What Notepad, Excel, PowerShell 5 (`>`) and Linux tools write: the encoding with its byte-order mark.
MARKED = {
  'utf-8': b'',
  'utf-8 with mark': codecs.BOM_UTF8,
  'utf-16-le': codecs.BOM_UTF16_LE,
  'utf-16-be': codecs.BOM_UTF16_BE,
  'utf-32-le': codecs.BOM_UTF32_LE,
  'utf-32-be': codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize('line_end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('encoding', MARKED)
def test_every_marked_encoding_and_line_end_gives_the_same_text(tmp_path, encoding, line_end):
  file = tmp_path / 'a.txt'
  file.write_bytes(MARKED[encoding] + TEXT.replace('\n', line_end).encode(encoding.split()[0]))
  assert read_text(file) == TEXT
  assert list(read_lines(file)) == TEXT.splitlines()
  assert read_prompts(file) == ['a dog', 'un café 東京']


def test_only_line_ends_separate_lines(tmp_path):
  """A JSON string may contain U+2028, and str.splitlines would cut it in two."""
  file = tmp_path / 'a.txt'
  file.write_text('a\u2028b\x0bc\x85d\n\ne', encoding='utf-8')
  assert list(read_lines(file)) == ['a\u2028b\x0bc\x85d', '', 'e']


@pytest.mark.parametrize('before', [1, 3000])  # within and beyond the first block that a stream decodes
@pytest.mark.parametrize('read', [read_text, lambda file: list(read_lines(file))])
def test_what_cannot_be_read_is_named_by_file_line_and_byte(tmp_path, read, before):
  file = tmp_path / 'a.txt'
  for encoding, content, wrong in (
    ('cp1252', 'un café', '0xE9'),
    ('shift-jis', '東京', '0x93'),
    ('iso-2022-jp', '東京', 'escape'),
  ):
    file.write_bytes(b'a dog\n' * before + content.encode(encoding))
    with raises(UnreadableText, f'{file}, line {before + 1}: ', wrong, 'UTF-8'):
      read(file)
  for name in ('utf-16-le', 'utf-16-be'):  # without a mark
    file.write_bytes(b'\n' * before + 'a dog'.encode(name))
    with raises(UnreadableText, f'{file}, line {before + 1}: ', 'NUL', 'UTF-16'):
      read(file)


def test_a_truncated_file_is_refused(tmp_path):
  file = tmp_path / 'a.txt'
  file.write_bytes(codecs.BOM_UTF16_LE + 'a dog'.encode('utf-16-le')[:-1])
  with raises(UnreadableText, file, 'UTF-16'):
    read_text(file)


@pytest.mark.parametrize('encoding', ['utf-16-le', 'utf-16-be'])
def test_utf_16_without_a_mark_is_named_as_such(encoding, tmp_path):
  """Its bytes are neither UTF-8 nor Windows-1252, as which a conversion would leave NUL characters."""
  (tmp_path / 'a.txt').write_bytes('a dög'.encode(encoding))
  with raises(UnreadableText, tmp_path / 'a.txt', 'line 1', 'UTF-16'):
    read_text(tmp_path / 'a.txt')
