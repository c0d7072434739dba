"""Prompts in a text file."""

from __future__ import annotations

from vdm_jax.errors import InvalidInput
from vdm_jax.inputs.captions import clean
from vdm_jax.inputs.text_files import read_lines


def read_prompts(path: str | None) -> list[str]:
  """The non-empty lines of a text file; none without a path. Raises InvalidInput if it cannot be read, or has none."""
  if path is None:
    return []
  try:
    prompts = [prompt for line in read_lines(path) if (prompt := clean(line))]
  except (OSError, ValueError) as error:
    raise InvalidInput(
      f'--prompt_file={path} cannot be read ({error}): give a UTF-8 text file, one prompt a line.'
    ) from error
  if not prompts:
    raise InvalidInput(f'--prompt_file={path} has no prompt: give a text file with one prompt a line.')
  return prompts
