"""The code blocks of README.md, CONTRIBUTING.md and docs/, and the comments that say how they are tested.

A comment before a block is `<!-- not run: REASON -->`, `<!-- slow: TIME -->` or `<!-- exits STATUS: REASON -->`;
CONTRIBUTING.md explains them. `docs/extending/` has a test of its own.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
LANGUAGES = {'', 'bash', 'python', 'text', 'json', 'mermaid', 'bibtex'}
MARKER = re.compile(r'<!-- (?P<kind>not run|slow|exits (?P<status>\d+)): (?P<reason>.+) -->')
COMMENT = re.compile(r'<!-- (?!generated: |figure: )')
FENCE = re.compile(r'```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?')
# A setting of the environment before a command.
SETTING = re.compile(r'[A-Z_]+=\S*')


class Block(NamedTuple):
  """A fenced code block; `line` is that of its fence, `marker` the kind of the comment before it, or empty."""

  page: str
  line: int
  language: str
  title: str
  marker: str
  reason: str
  status: int
  text: str

  @property
  def place(self) -> str:
    return f'{self.page}:{self.line}'


def pages() -> list[Path]:
  """The documents whose blocks are tested here."""
  found = sorted((REPOSITORY / 'docs').rglob('*.md'))
  own = [path for path in found if 'extending' not in path.parts or path.name == 'index.md']
  return [REPOSITORY / 'README.md', REPOSITORY / 'CONTRIBUTING.md', *own]


def blocks(path: Path) -> list[Block]:
  """The code blocks of a document, in order."""
  page, found, fence, body, before = path.relative_to(REPOSITORY).as_posix(), [], None, [], ''
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    if fence is None and (match := FENCE.fullmatch(line)):
      marker = MARKER.fullmatch(before)
      kind, status, reason = marker.groups() if marker else ('', None, '')
      fence = Block(page, number, match['language'], match['title'] or '', kind, reason, int(status or 0), '')
      assert marker or not COMMENT.match(before), f'{page}:{number - 1}: {before} is not a known comment'
    elif fence is not None and line == '```':
      found.append(fence._replace(text='\n'.join(body)))
      fence, body = None, []
    elif fence is not None:
      body.append(line)
    before = line
  assert fence is None, f'{page}: a code block does not end'
  return found


def commands(block: Block) -> list[list[str]]:
  """The commands of a shell block as words, without comments and settings of the environment."""
  found = []
  for line in block.text.replace('\\\n', ' ').splitlines():
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), '&&']:
      if word != '&&':
        words.append(word)
      elif words:
        found.append(words)
        words = []
  return [[*words] for words in map(without_settings, found) if words]


def without_settings(words: list[str]) -> list[str]:
  while words and SETTING.fullmatch(words[0]):
    words = words[1:]
  return words


def module_of(words: list[str]) -> str:
  """`vdm_jax.main` of `python -m vdm_jax.main ...`; empty for other commands."""
  is_module = Path(words[0]).name in ('python', 'python3') and words[1:2] == ['-m'] and len(words) > 2
  return words[2] if is_module else ''
