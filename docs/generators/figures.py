"""The figures of the notebook on diffusion in two dimensions, for the page on the mathematics."""

from __future__ import annotations

import base64
import json
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[2] / 'launch/colab/toy_2d.ipynb'


def figures() -> dict[str, bytes]:
  """PNG files by their number in the notebook, from `1`."""
  cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
  data = [output.get('data', {}) for cell in cells for output in cell.get('outputs', ())]
  pictures = [base64.b64decode(output['image/png']) for output in data if 'image/png' in output]
  return {str(number): picture for number, picture in enumerate(pictures, 1)}
