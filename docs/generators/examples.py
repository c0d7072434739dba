"""A Griffe extension: doctests of docstrings become `Examples:` sections, which the site shows as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

# Lines of a doctest: from `>>>` to the next empty line that no other `>>>` follows.
DOCTEST = re.compile(r'^>>> .*(?:\n(?!\n).*|\n\n(?=>>> ))*', re.MULTILINE)


class ExamplesAsSections(griffe.Extension):
  """Replaces the docstrings of everything that is collected."""

  def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
    """Changes one docstring; the doctests of one that has the section stay as they are."""
    if obj.docstring and 'Examples:\n' not in obj.docstring.value:
      obj.docstring.value = DOCTEST.sub(section, obj.docstring.value)


def section(match: re.Match) -> str:
  lines = (f'    {line}'.rstrip() for line in match[0].splitlines())
  return '\n'.join(['Examples:', *lines])
