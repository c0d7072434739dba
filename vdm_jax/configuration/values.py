"""Whether the keys and values of a configuration are those that it may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vdm_jax.names import RENAMED_SETTINGS, closest

# Tables of the section `training` with arbitrary keys; `training.schedules.bind_options` validates them.
OPEN = ('optimizer_options', 'schedule_options')
# Types of the elements of tuples whose default is empty.
ELEMENTS = {'mixture': str, 'images': str, 'vocabulary': str, 'scalars': str, 'original_size': int}


def compare(given: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = '') -> None:
  """Raise ValueError unless a configuration has exactly the expected keys, with values of the expected types.

  Args:
    given: a configuration, or a part of it.
    expected: the same with default values.
    prefix: of the keys of a part, such as `data.`, for messages.
  """
  for key in given:
    if key not in expected:
      raise ValueError(not_a_key(key, expected, prefix))
  for key, default_value in expected.items():
    if key not in given:
      raise ValueError(
        f'config.{prefix}{key} is missing: start the configuration from vdm_jax.configuration.default().'
      )
    value = given[key]
    if isinstance(default_value, Mapping) and isinstance(value, Mapping):
      if key in OPEN:
        continue
      compare(value, default_value, f'{prefix}{key}.')
    elif not _fits(value, default_value):
      raise ValueError(
        f'config.{prefix}{key}={value!r} has type {type(value).__name__}, not {type(default_value).__name__}.'
      )
    elif isinstance(default_value, tuple):
      _check_elements(f'config.{prefix}{key}', value, key, default_value)


def not_a_key(key: str, expected: Mapping[str, Any], prefix: str) -> str:
  """Return the message for an unknown key, with its current name or the closest key."""
  current = RENAMED_SETTINGS.get(f'{prefix}{key}')
  near = closest(key, expected)
  if current or near:
    hint = f'did you mean config.{current or prefix + near}?'
  elif expected:
    hint = f'the keys here are {", ".join(expected)}.'
  else:
    hint = f'config.{prefix[:-1]} is a single value.'
  return f'config.{prefix}{key} is not a configuration key: {hint}'


def _fits(value: Any, like: Any) -> bool:
  if isinstance(like, float):
    return isinstance(value, int | float) and not isinstance(value, bool)
  if isinstance(like, tuple):
    return isinstance(value, tuple | list)
  return type(value) is type(like)


def _check_elements(name: str, value: Sequence[Any], key: str, default_value: tuple) -> None:
  """Raise ValueError if an element of a tuple has another type than those of the default, or of ELEMENTS."""
  kind = type(default_value[0]) if default_value else ELEMENTS.get(key)
  wrong = [element for element in value if kind is not None and not _fits(element, kind())]
  if wrong:
    what = {int: 'whole numbers', float: 'numbers', str: 'strings', bool: 'True or False'}[kind]
    raise ValueError(f'{name}={tuple(value)!r} must hold {what}, but {wrong[0]!r} is a {type(wrong[0]).__name__}.')
