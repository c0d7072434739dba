"""Prints the figures of `pytest tests/originals --fidelity=FILE` as a Markdown table: python table.py FILE"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def render(lines: list[str]) -> str:
  """One row for each (what, reference, quantity): the largest error of all its comparisons, and their number."""
  rows: dict[tuple[str, str, str], list[float]] = {}
  bounds = {}
  for row in map(json.loads, lines):
    key = row['what'], row['reference'], row['quantity']
    rows.setdefault(key, []).append(row['error'])
    bounds[key] = max(row['within'], bounds.get(key, 0.0))
  table = ['| ours | original | quantity | comparisons | largest relative error | bound |', '|---|---|---|---|---|---|']
  for key, errors in rows.items():
    table.append(f'| {" | ".join(key)} | {len(errors)} | {max(errors):.1e} | {bounds[key]:.0e} |')
  return '\n'.join(table)


if __name__ == '__main__':
  print(render(Path(sys.argv[1]).read_text().splitlines()))
