"""The figures of the notebook on diffusion in two dimensions, for the page on the mathematics."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[2] / 'launch/colab/toy_2d.ipynb'


def figures() -> dict[str, bytes]:
  """PNG files by the slug of the heading they stand under; a second one under a heading ends in `-2`."""
  found: dict[str, bytes] = {}
  heading = ''
  for cell in json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']:
    if cell['cell_type'] == 'markdown':
      headings = re.findall(r'^#+ (.*)$', ''.join(cell['source']), re.MULTILINE)
      heading = slug(headings[-1]) if headings else heading
    for output in cell.get('outputs', ()):
      if picture := output.get('data', {}).get('image/png'):
        number = sum(name == heading or name.startswith(f'{heading}-') for name in found) + 1
        found[heading if number == 1 else f'{heading}-{number}'] = base64.b64decode(picture)
  return found


def slug(heading: str) -> str:
  return re.sub(r'[^a-z]+', '-', heading.lower()).strip('-')
