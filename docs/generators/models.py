"""Tables of shipped models, experiments and evaluation protocols, from their cards, docstrings and records."""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

from vdm_jax import evaluation, pretrained

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def zoo() -> str:
  """The shipped models: a table, and a section for each."""
  cards = [pretrained.card(name) for name in pretrained.names()]
  rows = ['| Name | Network | Videos | Parameters | Training steps |', '|---|---|---|---|---|']
  for card in cards:
    link = f'[`{card["name"]}`](#{card["name"]})'
    rows.append(f'| {link} | {card["network"]} | {size(card["video"])} | {card["parameters"]:,} | {card["step"]:,} |')
  return '\n\n'.join(['\n'.join(rows), *map(section, cards)])


def size(video: list[int]) -> str:
  """`8x16x16`, with the number of channels where there is more than one."""
  frames, height, width, channels = video
  return f'{frames}x{height}x{width}' + (' RGB' if channels == 3 else '')


def section(card: dict[str, Any]) -> str:
  """A model's card."""
  device = card['device']
  kind = device['kind'].upper() if device['kind'] == device['platform'] else device['kind']
  commit = f'`{card["commit"][:12]}`' if card['commit'] else 'not recorded'
  lines = [
    f'## {card["name"]}',
    html.escape(card['limits'], quote=False),
    f'Trained on one {kind} device with jax {card["jax"]}, seed {card["seed"]}, by',
    f'```text\n{card["command"]}\n```',
    f'| Item | Value |\n|---|---|\n| Weights | {card["weights"]} |\n| Data | {card["data"]} |\n'
    f'| License | {card["license"]} |\n| Commit | {commit} |\n| SHA-256 | `{card["sha256"]}` |',
  ]
  for protocol, scores in card['scores'].items():
    lines += [f'Scores, protocol `{protocol}`:', score_table(scores)]
  return '\n\n'.join(lines)


def score_table(scores: dict[str, Any]) -> str:
  """The numbers of a record as a table, nested names joined, beside those of real clips where it has them."""
  real = dict(numbers(scores.get('real') or {}, ''))
  rows = ['| Score | Model | Real clips |', '|---|---|---|']
  skipped = ('real', 'sampling', 'scorer', 'reader', 'rows', 'step', 'seed')
  for name, value in numbers({key: value for key, value in scores.items() if key not in skipped}, ''):
    rows.append(f'| {name.replace("_", " ")} | {value} | {real.get(name, "")} |')
  return '\n'.join(rows)


def numbers(values: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
  found = []
  for key, value in values.items():
    if isinstance(value, dict) and 'value' in value:
      spread = f' ± {value["spread"]:.3f}' if value.get('spread') else ''
      found.append((prefix + key, f'{value["value"]:.3f}{spread}'))
    elif isinstance(value, dict):
      found += numbers(value, f'{prefix}{key}, ')
    elif isinstance(value, int | float) and not isinstance(value, bool):
      found.append((prefix + key, f'{value:,}' if isinstance(value, int) else f'{value:.3f}'))
  return found


def configurations() -> str:
  """Every experiment of configs/ with its model card."""
  files = sorted(path for path in CONFIGS.glob('*.py') if path.name != '__init__.py')
  cards = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '' for path in files}
  cards = {name: card for name, card in cards.items() if '--config=' in card}
  rows = ['| Configuration | What it trains | Parameters |', '|---|---|---|']
  for name, card in cards.items():
    rows.append(f'| [`{name}`](#{name}) | {card.splitlines()[0]} | {count_of(card)} |')
  parts = [f'## {name}\n\n```text\n{card}\n```' for name, card in cards.items()]
  return '\n\n'.join(['\n'.join(rows), *parts])


def count_of(card: str) -> str:
  """The number of parameters that a model card states; empty if it states none."""
  match = re.search(r'^Parameters\s+(\d[\d,]*\d)', card, re.MULTILINE) or re.search(r'(\d[\d,]*\d)\s+parameters', card)
  return match[1] if match else ''


def protocols() -> str:
  """The evaluation protocols."""
  rows = ['| Protocol | Source | Metrics | Samples | Reference clips |', '|---|---|---|---|---|']
  notes = []
  for name, protocol in sorted(evaluation.PROTOCOLS.items()):
    metrics = ', '.join(dict.fromkeys(metric.name for metric in protocol.metrics))
    reference = f'{protocol.num_references:,}' if protocol.num_references else 'all'
    rows.append(f'| `{name}` | {protocol.source} | {metrics} | {protocol.num_samples:,} | {reference} |')
    notes.append(f'`{name}`\n:   {protocol.notes}')
  return '\n\n'.join(['\n'.join(rows), 'What each source leaves open, and what the protocol does about it:', *notes])
