"""Checks that commands understand their arguments, and runs none of them.

    python check_arguments.py < commands.json

Standard input is a JSON list of `[module, argument, ...]`. Each command is started in a forked process and stopped when
its arguments are parsed, by absl or argparse. A training writes its configuration, as a run would have it, so that
later commands may name its work directory. Prints a JSON list with the error of each command, or null.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import absl.app
from absl import flags

import vdm_jax.jobs  # noqa: F401  the parent imports what takes long
from vdm_jax import configuration

# Without them a process does not wait for others.
OF_SEVERAL = ('coordinator', 'num_processes', 'process_id')


def parse_absl(main: Any, argv: list[str] | None = None, flags_parser: Any = None) -> None:
  """Stands in for `absl.app.run`: parses, and stops."""
  rest = (flags_parser or flags.FLAGS)(list(argv or sys.argv))
  if rest[1:]:
    raise SystemExit(f'error: {rest[1]} is not a flag')
  values = flags.FLAGS
  config, mode = getattr(values, 'config', None), getattr(values, 'mode', None)
  if config is not None:
    configuration.validate(config)
  if mode == 'train' and values.workdir:
    write_config(Path(values.workdir), config)
  raise SystemExit(0)


def write_config(workdir: Path, config: Any) -> None:
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / 'config.json').write_text(json.dumps(config.to_dict()))


parse_argparse = argparse.ArgumentParser.parse_args


def parse_and_stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
  parse_argparse(self, args, namespace)
  raise SystemExit(0)


def check(module: str, arguments: list[str]) -> str | None:
  """What a command says against its arguments; None if nothing."""
  reader, writer = os.pipe()
  if (child := os.fork()) == 0:
    said = io.StringIO()
    try:
      sys.argv = [module, *(word for word in arguments if word.lstrip('-').split('=')[0] not in OF_SEVERAL)]
      absl.app.run, argparse.ArgumentParser.parse_args = parse_absl, parse_and_stop
      with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        runpy.run_module(module, run_name='__main__', alter_sys=True)
      error = 'the command did not parse its arguments'
    except SystemExit as end:
      error = None if end.code in (None, 0) else f'{said.getvalue()}{end.code}'
    except BaseException:
      error = traceback.format_exc()
    os.write(writer, json.dumps(error).encode()[:60_000])
    os._exit(0)
  os.close(writer)
  with os.fdopen(reader, 'rb') as stream:
    answer = stream.read()
  os.waitpid(child, 0)
  return json.loads(answer)


def main() -> None:
  print(json.dumps([check(module, arguments) for module, *arguments in json.load(sys.stdin)]))


if __name__ == '__main__':
  main()
