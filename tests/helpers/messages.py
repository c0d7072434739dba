"""Checks of error messages by the settings, files and values that they name, not by their sentences."""

from __future__ import annotations

import re

import pytest


def raises(error: type[Exception], *parts: object):
  """Return a context manager that expects an error whose message contains the parts, in this order."""
  return pytest.raises(error, match=naming(*parts))


def naming(*parts: object) -> str:
  """Return a regular expression that matches text with the parts, in this order."""
  return '(?s)' + '.*'.join(re.escape(str(part)) for part in parts)
