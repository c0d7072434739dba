"""Guides: every Python block of docs/extending/*.md runs, those of a page in order and in one namespace.

The part that a guide's first block defines also runs as a file of the package.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

GUIDES = Path(__file__).resolve().parents[2] / 'docs' / 'extending'
# Imported before a guide runs, so that what it adds to their tables can be undone.
PACKAGES = ('configuration', 'data', 'evaluation', 'generation', 'jobs', 'networks', 'pretrained', 'text', 'training')
# Where the part of a guide would be a file of the package: while this module is imported, it imports the part.
IMPORTED_BY = {
  'data_source': 'vdm_jax.data.sources.catalog',
  'feature_network': 'vdm_jax.evaluation.features.table',
  'metric': 'vdm_jax.evaluation.metrics.table',
  'network': 'vdm_jax.networks.fit',
  'protocol': 'vdm_jax.evaluation.protocols.table',
  'text_encoder': 'vdm_jax.text.encoders.bert',
  'guidance': 'vdm_jax.sampling.guidance',
  'process': 'vdm_jax.diffusion.denoiser',
  'sampler': 'vdm_jax.sampling.steps',
}
# Runs each part, given as {module: source} on stdin, at the beginning of the import of its module.
IMPORT_PARTS = """
import json, sys, types
parts, failed = json.load(sys.stdin), {}
class Finder:
  def find_spec(self, name, path=None, target=None):
    if source := parts.pop(name, None):
      part = types.ModuleType(name.rpartition('.')[0] + '.part')
      sys.modules[part.__name__] = part
      try:
        exec(compile(source, name, 'exec'), vars(part))
      except Exception as error:
        failed[name] = repr(error)
sys.meta_path.insert(0, Finder())
import vdm_jax.data, vdm_jax.evaluation
print(json.dumps([failed, list(parts)]))
"""
FENCE = re.compile(
  r'^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)``` *$', re.MULTILINE | re.DOTALL
)


def blocks(text: str) -> list[tuple[int, str]]:
  """Returns the line number and the source of each ```python block; blocks in lists may be indented."""
  found = []
  for match in FENCE.finditer(text):
    if match['language'] == 'python':
      indent = match['indent']
      lines = [line.removeprefix(indent) for line in match['body'].splitlines()]
      found.append((text.count('\n', 0, match.start()) + 2, '\n'.join(lines) + '\n'))
  return found


@contextlib.contextmanager
def module(name: str):
  """A fresh module, importable by name while the blocks of a page run: pickling and dataclasses look it up."""
  made = types.ModuleType(name)
  sys.modules[name] = made
  try:
    yield made
  finally:
    del sys.modules[name]


@contextlib.contextmanager
def restored():
  """Undoes what a page adds to the dicts of `vdm_jax` modules (tables of names), and its changes of the environment."""
  for package in PACKAGES:
    importlib.import_module(f'vdm_jax.{package}')
  tables = [
    (table, dict(table))
    for name, loaded in list(sys.modules.items())
    if name.split('.')[0] == 'vdm_jax'
    for key, table in list(vars(loaded).items())
    if isinstance(table, dict) and not key.startswith('__')
  ]
  environment = dict(os.environ)
  try:
    yield
  finally:
    for table, before in tables:
      if table.keys() != before.keys() or any(table[key] is not before[key] for key in before):
        table.clear()
        table.update(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize('guide', sorted(GUIDES.glob('*.md')), ids=lambda path: path.stem)
def test_the_code_of_a_guide_runs(guide, tmp_path, monkeypatch):
  """In an empty working directory. A failure shows the line of the guide."""
  monkeypatch.chdir(tmp_path)
  found = blocks(guide.read_text())
  with restored(), module(f'guide_{guide.stem}') as page:
    for line, source in found:
      # Empty lines in front make the line numbers of a traceback those of the guide.
      exec(compile('\n' * (line - 1) + source, str(guide), 'exec', dont_inherit=True), vars(page))


def test_the_part_of_a_guide_can_be_a_file_of_the_package():
  """Otherwise the table that lists the part could not import it: the imports would be circular."""
  parts = {module: blocks((GUIDES / f'{guide}.md').read_text())[0][1] for guide, module in IMPORTED_BY.items()}
  command = [sys.executable, '-c', IMPORT_PARTS]
  done = subprocess.run(command, input=json.dumps(parts), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1]) == [{}, []]
  guides = {path.stem for path in GUIDES.glob('*.md')}
  assert guides - set(IMPORTED_BY) == {'index', 'optimizer'}, 'an optimizer is a name of optax or an argument'


def test_every_guide_has_code():
  guides = sorted(GUIDES.glob('*.md'))
  assert guides and all(blocks(path.read_text()) or path.stem in ('README', 'index') for path in guides)


def test_blocks_are_found_in_order_with_their_lines():
  plain = 'a\n```python\nx = 1\n```\n\n'
  others = '```\nnot code\n```\n```bash\nls\n```\n'
  indented = '1. b\n\n   ```python\n   if x:\n     y = 2\n   ```\n'
  assert blocks(plain + others + indented) == [(3, 'x = 1\n'), (15, 'if x:\n  y = 2\n')]
