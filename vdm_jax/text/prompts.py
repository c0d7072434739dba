"""Prompts in a text file."""

from __future__ import annotations

from pathlib import Path

from vdm_jax.errors import InvalidInput


def read_prompts(path: str | None) -> list[str]:
  """The non-empty lines of a UTF-8 text file; none without a path."""
  if path is None:
    return []
  try:
    lines = Path(path).read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InvalidInput(
      f'--prompt_file={path} cannot be read ({error}): give a UTF-8 text file, one prompt a line.'
    ) from error
  return [line.strip() for line in lines if line.strip()]
