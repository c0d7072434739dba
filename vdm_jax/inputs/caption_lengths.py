"""How many captions are longer than `data.text_length`, said once, with the length that would keep most."""

from __future__ import annotations

import math
from collections.abc import Sequence

KEPT = 0.95  # share of the captions that the recommended length keeps whole
BINS = 8
BAR = 40  # characters


def length_keeping(lengths: Sequence[int], share: float = KEPT) -> int:
  """Return the smallest length that keeps this share of captions whole.

  >>> length_keeping([3] * 95 + [40] * 5)
  3
  """
  return sorted(lengths)[max(0, math.ceil(share * len(lengths) - 1e-9) - 1)]


def cut_report(lengths: Sequence[int], text_length: int, unit: str = 'tokens') -> str | None:
  """Return how many captions are cut, a histogram of all, and the length that keeps 95 %; None if none is cut.

  Args:
    lengths: tokens of each caption.
    text_length: `data.text_length`.
    unit: what is counted.

  >>> print(cut_report([2, 2, 2, 5], 4).splitlines()[0])
  1 of 4 captions (25%) are longer than data.text_length=4 and are cut; 5 tokens keep 95% whole, 5 keep all
  """
  cut = sum(length > text_length for length in lengths)
  if not cut:
    return None
  first = (
    f'{cut} of {len(lengths)} captions ({_percent(cut, len(lengths))}) are longer than data.text_length={text_length} '
    f'and are cut; {length_keeping(lengths)} {unit} keep {KEPT:.0%} whole, {max(lengths)} keep all'
  )
  return '\n'.join([first, f'{unit} per caption:', *_bars(lengths)])


def _percent(part: int, whole: int) -> str:
  return f'{100 * part / whole:.2g}%' if part < whole else '100%'


def _bars(lengths: Sequence[int]) -> list[str]:
  """Return a line for each of at most BINS ranges of equal width."""
  least, most = min(lengths), max(lengths)
  width = max(1, math.ceil((most - least + 1) / BINS))
  counts = [0] * ((most - least) // width + 1)
  for length in lengths:
    counts[(length - least) // width] += 1
  lines = []
  for i, count in enumerate(counts):
    low, high = least + i * width, min(least + (i + 1) * width - 1, most)
    name = f'{low}' if low == high else f'{low} to {high}'
    lines.append(f'  {name:>20} {count:>8} {"#" * round(BAR * count / max(counts))}'.rstrip())
  return lines
