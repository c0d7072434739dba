"""Every configuration key with its default and meaning, read from the code that defines it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vdm_jax import configuration, models

SECTIONS = {
  'data': 'Data',
  'model': 'Model',
  'training': 'Training',
  'sampling': 'Sampling',
  'mesh': 'Mesh',
}


# How each key may change when a run resumes.
RESUMING = {
  configuration.Change.FREE: 'free',
  configuration.Change.ALLOWED: '`--allow_change`',
  configuration.Change.REFUSED: 'new run',
}
# Keys whose line in the code has no comment.
WITHOUT_COMMENT = {
  'seed': 'of the initial weights, the order of the data and all noise; `--seed` sets it',
  'data.num_frames': 'frames of a clip, and of the videos that the model makes at once',
  'data.digits.num_digits': 'digits in a clip',
  'data.digits.random_start': 'lane, start and one of two speeds are random',
  'data.digits.bounce': 'digits turn around at the edge of the frame',
  'data.digits.colors': 'digits have colors, which captions name',
  'data.digits.motions': 'digits move slowly, move quickly or bounce, which captions name',
  'data.digits.withhold': 'a fifth of the combinations of digit, direction, color and motion is never trained on',
  'data.digits.clip_frames': 'frames of a whole clip, of which windows are cut at random; 0: as many as a window spans',
  'model.network': f'one of {", ".join(models.NETWORKS)}',
  'training.log_every': 'steps between rows of metrics.jsonl',
  'training.checkpoint_every': 'steps between checkpoints',
  'training.keep_checkpoints': 'newest checkpoints that are kept',
  'training.tensorboard': 'also write TensorBoard events to `workdir/tensorboard`',
  'training.warmup_steps': 'steps of linear warm-up',
  'training.ema_decay': 'decay per step of the average of the weights',
}


def reference() -> str:
  """Markdown: a table for each section, and one for the fields of each network."""
  defaults = {name: configuration.default(name).to_dict() for name in models.NETWORKS}
  first = next(iter(defaults.values()))
  known = meanings()
  parts = ['## Top level', table({'seed': first['seed']}, known, '')]
  for section, heading in SECTIONS.items():
    hidden = repeated(first) | field_names() if section == 'model' else set()
    values = {key: value for key, value in first[section].items() if key not in hidden}
    parts += [f'## {heading}', table(in_order(values, known, f'{section}.'), known, f'{section}.')]
    if section == 'model':
      parts += [network_table(name, config) for name, config in defaults.items()]
  return '\n\n'.join(parts)


def network_table(name: str, config: Mapping[str, Any]) -> str:
  """The keys of `model` that are fields of one network."""
  fields = [field.name for field in dataclasses.fields(models.NETWORKS[name])]
  own = {key: config['model'][key] for key in fields if key in config['model'] and key not in repeated(config)}
  known = {f'model.{key}': text for key, text in attributes(models.NETWORKS[name]).items()}
  return f"### `model.network='{name}'`\n\n{table(own, known, 'model.')}"


def field_names() -> set[str]:
  return {field.name for network in models.NETWORKS.values() for field in dataclasses.fields(network)}


def in_order(values: Mapping[str, Any], known: Mapping[str, str], prefix: str) -> dict[str, Any]:
  """The keys in the order of the source."""
  order = {key: index for index, key in enumerate(known)}
  return dict(sorted(values.items(), key=lambda item: order.get(prefix + item[0], len(order))))


def keys(network: str) -> Iterator[str]:
  """The full names of all keys of a network's configuration, without those of `model` that repeat `data`."""
  config = configuration.default(network).to_dict()
  for key, _ in flat(config, ''):
    if not (key.startswith('model.') and key.removeprefix('model.') in repeated(config)):
      yield key


def repeated(config: Mapping[str, Any]) -> set[str]:
  """Keys of `model` that follow the key of the same name in `data`."""
  return set(config['data']) & set(config['model'])


def flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
  for key, value in values.items():
    if isinstance(value, Mapping) and value:
      yield from flat(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


def table(values: Mapping[str, Any], known: Mapping[str, str], prefix: str) -> str:
  rows = ['| Key | Default | Meaning | To change it in a run |', '|---|---|---|---|']
  for key, value in flat(values, prefix):
    meaning = known.get(key, '').replace('|', chr(92) + '|')
    change = RESUMING[configuration.change_of(key)]
    rows.append(f'| `{key}` | {show(value)} | {meaning} | {change} |')
  return '\n'.join(rows)


def show(value: Any) -> str:
  return f'`{value!r}`' if value != '' else '`""`'


def meanings() -> dict[str, str]:
  """`section.key` -> its comment in the code, in the order of the source; `WITHOUT_COMMENT` fills what has none."""
  file = Path(inspect.getsourcefile(configuration))
  files = sorted(file.parent.glob('*.py')) if file.name == '__init__.py' else [file]
  defaults = configuration.default().to_dict()
  found: dict[str, str] = {}
  for path in files:
    trailing, above = source_comments(path)
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Dict) and (section := section_of(node, defaults)):
        found |= of_dict(node, section, trailing, above)
  return {key: text or WITHOUT_COMMENT.get(key, '') for key, text in (found | {'seed': ''}).items()}


def of_dict(node: ast.Dict, prefix: str, trailing: dict[int, str], above: dict[int, str]) -> dict[str, str]:
  found = {}
  for key, value in zip(node.keys, node.values, strict=True):
    if not isinstance(key, ast.Constant):
      continue
    name = f'{prefix}{key.value}'
    found[name] = trailing.get(value.end_lineno) or above.get(key.lineno, '')
    if isinstance(value, ast.Dict):
      found |= of_dict(value, f'{name}.', trailing, above)
  return found


def section_of(node: ast.Dict, defaults: Mapping[str, Any]) -> str:
  """`data.` for the dictionary of `data`, and so on; empty for any other."""
  names = {key.value for key in node.keys if isinstance(key, ast.Constant)}
  fits = [section for section in SECTIONS if len(names) > 2 and names <= set(defaults[section])]
  return f'{max(fits, key=lambda section: len(names & set(defaults[section])))}.' if fits else ''


def source_comments(path: Path) -> tuple[dict[int, str], dict[int, str]]:
  """Comments at the end of a line by line, and blocks of whole-line comments by the line that follows them."""
  trailing, above, block = {}, {}, []
  lines = path.read_text(encoding='utf-8').splitlines()
  with tokenize.open(path) as file:
    for token in tokenize.generate_tokens(file.readline):
      if token.type == tokenize.COMMENT:
        text = token.string.lstrip('# ').strip()
        if lines[token.start[0] - 1].lstrip().startswith('#'):
          block.append(text)
          above[token.start[0] + 1] = ' '.join(block)
        else:
          trailing[token.start[0]] = text
      elif token.type not in (tokenize.NL, tokenize.NEWLINE):
        block = []
  return trailing, above


def attributes(network: type) -> dict[str, str]:
  """Field -> meaning from the `Attributes:` block of a network's docstring; one entry may name several fields."""
  text = re.split(r'^\s*Attributes:\s*$', inspect.getdoc(network) or '', maxsplit=1, flags=re.MULTILINE)
  found: dict[str, str] = {}
  names: list[str] = []
  for line in text[1].splitlines() if len(text) > 1 else ():
    if line and not line.startswith(' '):
      break
    if match := re.match(r'  (?=\w)([\w, ]+?)(?: \([^)]*\))?: (.*)', line):
      names = [name.strip() for name in match[1].split(',')]
      found |= dict.fromkeys(names, match[2].strip())
    elif names and line.strip():
      found |= {name: f'{found[name]} {line.strip()}' for name in names}
  return found
