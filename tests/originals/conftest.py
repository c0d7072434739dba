"""The fixture `agrees`, which bounds the error of a comparison; `--fidelity=FILE` records all errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.fidelity import error
from text.conftest import golden, golden_clip, golden_t5, golden_weights, write_bert, write_clip, write_t5

# The fixtures of tests/text.
__all__ = ['golden', 'golden_clip', 'golden_t5', 'golden_weights', 'write_bert', 'write_clip', 'write_t5']


def pytest_addoption(parser):
  parser.addoption('--fidelity', metavar='FILE', help='append one JSON line per comparison with an original')


@pytest.fixture
def agrees(request):
  """Returns `agrees(found, expected, within, what, reference, quantity)`, which checks and records a relative error."""
  file = request.config.getoption('--fidelity', None)

  def check(found, expected, within: float, what: str, reference: str, quantity: str) -> None:
    relative = error(found, expected)
    if file:
      row = {'what': what, 'reference': reference, 'quantity': quantity, 'error': relative, 'within': within}
      with Path(file).open('a') as lines:
        lines.write(json.dumps(row) + '\n')
    assert relative <= within, f'{what}, {quantity}: {relative:.1e} > {within:.0e}'

  return check
