"""The command-line reference, from the flags and argument parsers of the commands."""

from __future__ import annotations

import contextlib
import html
import importlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Commands that parse arguments with argparse: module -> subcommands.
PARSERS = {
  'vdm_jax.data': ('inspect', 'convert', 'caption'),
  'vdm_jax.tools.user_study': ('make', 'score'),
  'vdm_jax.benchmarks.sample_grid': (),
  'vdm_jax.benchmarks.paper_claims': (),
  'vdm_jax.benchmarks.compile_table': (),
  'vdm_jax.benchmarks.train_step': (),
  'vdm_jax.benchmarks.input': (),
}
WIDTH = '88'
LIST_FLAGS = """
import importlib, json, sys
from absl import flags
importlib.import_module(sys.argv[1])
defined = flags.FLAGS.flags_by_module_dict().items()
print(json.dumps([
  {'name': flag.name, 'default': flag.default, 'help': flag.help, 'choices': getattr(flag.parser, 'enum_values', None)}
  for module, found in defined if module.startswith('vdm_jax') for flag in found
]))
"""


def reference() -> str:
  """Markdown: the flags of `vdm_jax.main` and `vdm_jax.text`, then the help of the other commands."""
  parts = ['## `python -m vdm_jax.main`', flag_table('vdm_jax.main')]
  parts += ['## `python -m vdm_jax.text embed`', flag_table('vdm_jax.text.__main__')]
  for module, subcommands in PARSERS.items():
    parts.append(f'## `python -m {module}`')
    parts += [f'```text\n{help_text(module, arguments)}\n```' for arguments in ([], *([name] for name in subcommands))]
  return '\n\n'.join(parts)


def flag_table(module: str) -> str:
  """The flags that importing a module defines."""
  rows = ['| Flag | Default | Meaning |', '|---|---|---|']
  for flag in defined_flags(module):
    names = [name for name in flag['choices'] or () if f'{name}: ' not in flag['help']]  # some helps explain each
    choices = f' One of {", ".join(f"`{name}`" for name in names)}.' if names else ''
    default = '' if flag['default'] in (None, []) else f'`{flag["default"]}`'
    meaning = re.sub(r'\s+', ' ', flag['help']).strip()
    meaning = re.sub(r'^<[^>]*\|[^>]*>: |; repeat this option to specify a list of values$', '', meaning)
    meaning = html.escape(meaning, quote=False).replace('|', '\\|')
    rows.append(f'| `--{flag["name"]}` | {default} | {meaning}{choices} |')
  return '\n'.join(rows)


def defined_flags(module: str) -> list[dict[str, Any]]:
  """name, default, help and choices of each flag; in a process of its own, for commands share names of flags."""
  done = subprocess.run([sys.executable, '-c', LIST_FLAGS, module], capture_output=True, text=True, check=True)
  return json.loads(done.stdout)


def help_text(module: str, arguments: Sequence[str]) -> str:
  """What `python -m module ... --help` prints."""
  name = module if module.startswith('vdm_jax.benchmarks') and not is_package(module) else f'{module}.__main__'
  command = importlib.import_module(name)
  printed, columns = io.StringIO(), os.environ.get('COLUMNS')
  os.environ['COLUMNS'] = WIDTH
  try:
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
      call(command, [*arguments, '--help'])
  finally:
    os.environ.pop('COLUMNS')
    if columns is not None:
      os.environ['COLUMNS'] = columns
  return printed.getvalue().rstrip()


def is_package(module: str) -> bool:
  return hasattr(importlib.import_module(module), '__path__')


def call(command: ModuleType, arguments: list[str]) -> None:
  """Runs `main` of a command, which may read `sys.argv` instead of an argument."""
  before, sys.argv = sys.argv, [f'python -m {command.__name__.removesuffix(".__main__")}', *arguments]
  try:
    command.main(arguments) if inspect.signature(command.main).parameters else command.main()
  finally:
    sys.argv = before
