"""Every code reference and every command of the ledger of both papers resolves."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.code_blocks import REPOSITORY

from vdm_jax.evaluation import PROTOCOLS

LEDGER = (REPOSITORY / 'docs/reproduction/ledger.md').read_text()
CODE = re.findall(r'`((?!python)[\w/]+\.py):(\w+)`', LEDGER)
COMMANDS = re.findall(r'`(python -m [^`]+)`', LEDGER)


@pytest.mark.parametrize('file', sorted({file for file, _ in CODE}))
def test_code_references_resolve(file):
  tree = ast.parse((REPOSITORY / 'vdm_jax' / file).read_text())
  defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
  targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
  defined |= {target.id for target in targets if isinstance(target, ast.Name)}
  assert {name for other, name in CODE if other == file} <= defined


def test_the_ledger_lists_everything_that_the_papers_number():
  vdm, snap = LEDGER.split('## Snap Video')
  for paper, kinds in ((vdm, {'Table': 6, 'Fig': 5, 'Eq': 8}), (snap, {'Table': 10, 'Fig': 13, 'Eq': 43})):
    for kind, count in kinds.items():
      found = set()
      for text in re.findall(rf'\n\| (?:Appendix . )?[^|]*?{kind}s?\.? ([^|]*?)\|', paper):
        found |= numbers(text)
      assert set(range(1, count + 1)) <= found, (kind, sorted(set(range(1, count + 1)) - found))
  assert all(f'| A.{number}' in vdm for number in range(1, 5))
  assert all(
    f'| {appendix}' in snap for appendix in ('A', 'B', 'C.1', 'C.2', 'C.3', 'C.5', 'C.6', 'D and E', 'F.1', 'F.2')
  )


def numbers(text):
  """1, 2, 9 and 10; 4 to 14."""
  text = text.partition(':')[0]
  ranges = [range(int(a), int(b) + 1) for a, b in re.findall(r'(\d+) to (\d+)', text)]
  return {int(number) for number in re.findall(r'\b\d+\b', text)}.union(*ranges)


def test_every_protocol_with_published_values_has_a_command():
  protocols = {match for command in COMMANDS for match in re.findall(r'--protocol=(\S+)', command)}
  assert {name for name, protocol in PROTOCOLS.items() if protocol.published} <= protocols <= set(PROTOCOLS)


@pytest.mark.slow  # starts every command
def test_commands_resolve(tmp_path):
  """Training commands come first: they write the configurations of the runs that the others name."""
  (tmp_path / 'videos').mkdir()
  ordered = sorted(set(COMMANDS), key=lambda command: '--config=' not in command)
  asked = [shlex.split(command)[2:] for command in ordered]
  checker = Path(__file__).with_name('check_arguments.py')
  done = subprocess.run(
    [sys.executable, checker], input=json.dumps(asked), capture_output=True, text=True, cwd=tmp_path, check=True
  )
  errors = dict(zip(ordered, json.loads(done.stdout), strict=True))
  assert {command: error for command, error in errors.items() if error} == {}
