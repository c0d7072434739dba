"""Prints the errors from `pytest tests/originals --fidelity=FILE` as a Markdown table: python table.py FILE"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def render(lines: list[str]) -> str:
  """One row per (what, original, quantity), with the number and largest error of the cases after a comma."""
  rows: dict[tuple[str, str, str], list[dict]] = {}
  for row in map(json.loads, lines):
    what, quantity = (row[key].split(', ')[0] for key in ('what', 'quantity'))
    rows.setdefault((what, row['reference'], quantity), []).append(row)
  table = ['| ours | original | quantity | comparisons | largest relative error | bound |', '|---|---|---|---|---|---|']
  for key, found in rows.items():
    largest, bound = (max(row[name] for row in found) for name in ('error', 'within'))
    table.append(f'| {" | ".join(key)} | {len(found)} | {largest:.1e} | {bound:.0e} |')
  return '\n'.join(table)


if __name__ == '__main__':
  print(render(Path(sys.argv[1]).read_text().splitlines()))
