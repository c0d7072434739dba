"""Configurations that earlier versions wrote, under the current keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdm_jax.names import RENAMED_SETTINGS


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
  """Return a copy of a configuration in which keys have their current names."""
  values = {name: dict(part) if isinstance(part, Mapping) else part for name, part in values.items()}
  for former, current in RENAMED_SETTINGS.items():
    (section, old), (target, new) = former.split('.'), current.split('.')
    if old in _section(values, section) and new not in _section(values, target):
      values.setdefault(target, {})[new] = values[section].pop(old)
  return values


def with_shares(values: dict[str, Any]) -> dict[str, Any]:
  """Return the same with `guidance_start` as a share of the steps; version 0.2 stored their number, an integer."""
  sampling = _section(values, 'sampling')
  start, num_steps = sampling.get('guidance_start'), sampling.get('num_steps')
  if type(start) is int and type(num_steps) is int and num_steps > 0:
    values['sampling'] = {**sampling, 'guidance_start': min(start / num_steps, 1.0)}
  return values


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  return part if isinstance(part := values.get(name), Mapping) else {}


def fill(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
  """Return the same with defaults for the keys that are not given."""
  filled = defaults | given
  for key, default_value in defaults.items():
    if isinstance(default_value, dict) and isinstance(filled[key], dict):
      filled[key] = fill(filled[key], default_value)
  return filled
