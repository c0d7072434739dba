"""The rows of published tables: which of them a run can be compared with, and what distinguishes the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vdm_jax.evaluation.protocols.contract import Figure, Protocol

SAMPLING = 'sampling.'  # keys that can be set to reproduce a row; all others need another run


class Row(NamedTuple):
  """A row of a table: where it is, and its setting."""

  source: str
  setting: dict[str, Any]

  @property
  def label(self) -> str:
    """The table and what is known of the row's setting.

    >>> Row('Video Diffusion Models, Table 5', {'data.frame_skip': 4, 'sampling.guidance_weight': 1.0}).label
    'Video Diffusion Models, Table 5 (data.frame_skip=4, guidance_weight=1)'
    """
    return f'{self.source} ({describe(self.setting)})' if self.setting else self.source


def rows_of(protocol: Protocol) -> list[Row]:
  """Return the rows of the protocol's published tables, each once, in their order."""
  found: list[Row] = []
  for figure in protocol.published:
    if (row := Row(figure.source, dict(figure.setting))) not in found:
      found.append(row)
  return found


def differences(
  setting: Mapping[str, Any], config: Mapping[str, Any], sampling: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
  """Return in which keys of a row's setting a run differs: `{key: (the row's value, the run's)}`.

  Args:
    setting: of the row. A key without a dot describes what no run has.
    config: configuration of the run.
    sampling: the section `sampling` that is used; None: keys of that section are left out.

  >>> differences({'data.frame_skip': 4, 'sampling.num_steps': 256}, {'data': {'frame_skip': 1}})
  {'data.frame_skip': (4, 1)}
  """
  sections = {**config, 'sampling': sampling}
  found = {}
  for key, wanted in setting.items():
    section, _, name = key.rpartition('.')
    if section == 'sampling' and sampling is None:
      continue
    has = sections[section].get(name) if section else None
    if has != wanted:
      found[key] = (wanted, has)
  return found


def beside(
  figures: tuple[Figure, ...], metric: str, variant: str, config: Mapping[str, Any], sampling: Mapping[str, Any]
) -> str:
  """Return what a report says beside a value: published values of the same setting, and how many of others.

  >>> figures = (Figure('fvd', 'test', 16.2, None, 'VDM, Table 3', (('sampling.num_steps', 128),)),)
  >>> beside(figures, 'fvd', 'test', {}, {'num_steps': 128})
  '; published 16.2 (VDM, Table 3)'
  >>> beside(figures, 'fvd', 'test', {}, {'num_steps': 8})
  '; published only for other settings: 16.2 (num_steps=128)'
  """
  rows = [figure for figure in figures if (figure.metric, figure.variant) == (metric, variant)]
  same = [figure for figure in rows if not differences(dict(figure.setting), config, sampling)]
  if same:
    return '; published ' + ', '.join(f'{figure.value:g} ({figure.source})' for figure in same)
  others = []
  for figure in rows:
    differ = differences(dict(figure.setting), config, sampling)
    others.append(f'{figure.value:g} ({describe({key: wanted for key, (wanted, _) in differ.items()})})')
  return '; published only for other settings: ' + ', '.join(others) if others else ''


def published(
  figures: tuple[Figure, ...], config: Mapping[str, Any], sampling: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Return the published values for a record, each with `same_setting`."""
  return [
    figure._asdict() | {'same_setting': not differences(dict(figure.setting), config, sampling)} for figure in figures
  ]


def describe(setting: Mapping[str, Any]) -> str:
  """Return a setting as text.

  >>> describe({'sampling.guidance_weight': 4.0, 'data.num_images': 8})
  'guidance_weight=4, data.num_images=8'
  """
  return ', '.join(f'{key.removeprefix(SAMPLING)}={_plain(value)}' for key, value in setting.items())


def _plain(value: Any) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)
