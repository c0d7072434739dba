"""Docstrings: every public name of the library has an example, and every example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'vdm_jax'
# Packages that are used as a library: each function and class of their __all__ shows how.
LIBRARY = ('diffusion', 'sampling', 'networks', 'generation', 'training', 'evaluation', 'checkpoints', 'models')


def with_examples() -> list[str]:
  files = sorted(path for path in PACKAGE.rglob('*.py') if '>>> ' in path.read_text() and path.name != '__main__.py')
  return ['.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix('.__init__') for path in files]


@pytest.mark.parametrize('module', with_examples())
def test_examples_run(module):
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  failed, tried = doctest.testmod(importlib.import_module(module), optionflags=flags)
  assert tried
  assert not failed


def public() -> list[str]:
  packages = {name: importlib.import_module(f'vdm_jax.{name}') for name in LIBRARY}
  return [
    f'{package}.{name}'
    for package, module in packages.items()
    for name in module.__all__
    if inspect.isfunction(getattr(module, name)) or inspect.isclass(getattr(module, name))
  ]


@pytest.mark.parametrize('name', public())
def test_public_names_have_an_example(name):
  package, attribute = name.split('.')
  docstring = getattr(importlib.import_module(f'vdm_jax.{package}'), attribute).__doc__ or ''
  assert '>>> ' in docstring, f'vdm_jax.{name}: show how it is used'
