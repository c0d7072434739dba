"""Pages that are found by looking: the guides of docs/extending/."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]


def pages(pattern: str = 'extending/*.md') -> list[tuple[str, str]]:
  """(title, path below docs/) of each page but the index, in alphabetical order of paths."""
  found = sorted(path for path in DOCS.glob(pattern) if path.name != 'index.md')
  return [(title(path), path.relative_to(DOCS).as_posix()) for path in found]


def title(path: Path) -> str:
  """The first heading of a page, without code marks."""
  heading = re.search(r'^# (.+)$', path.read_text(encoding='utf-8'), re.MULTILINE)
  return heading[1].replace('`', '') if heading else path.stem.replace('_', ' ').capitalize()


def links() -> str:
  """The guides as a list of links for docs/extending/index.md."""
  return '\n'.join(f'- [{name}]({Path(path).name})' for name, path in pages())
