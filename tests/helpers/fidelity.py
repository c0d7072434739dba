"""Shared by the comparisons with other implementations: fixtures, weights drawn by a rule, relative errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

FIXTURES = Path(__file__).parents[1] / 'originals' / 'fixtures'


def load(name: str) -> dict[str, np.ndarray]:
  with np.load(FIXTURES / name) as archive:
    return dict(archive)


def below(table: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  return {name.removeprefix(prefix): value for name, value in table.items() if name.startswith(prefix)}


def named_leaves(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree of dicts by name, `outer/inner`, in the order of names."""
  leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(tree))
  return dict(sorted((jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in leaves))


def draw(tree: Any, seed: int, kernel: float = 0.3) -> Any:
  """Return parameters for a tree of shapes, none of them zero, by the rule in README.md.

  `RandomState` gives the same numbers in all versions of numpy; a `Generator` need not.
  """
  random, values = np.random.RandomState(seed), {}
  for name, leaf in named_leaves(tree).items():
    noise = random.standard_normal(leaf.shape)
    scale = {'kernel': kernel, 'bias': 0.3, 'scale': 0.3}.get(name.split('/')[-1], 1.0)
    values[name] = (scale * noise + name.endswith('scale')).astype(np.float32)

  def leaf(path: Any, _: Any) -> jax.Array:
    return jnp.asarray(values[jax.tree_util.keystr(path, simple=True, separator='/')])

  return jax.tree_util.tree_map_with_path(leaf, nn.unbox(tree))


def error(found: Any, expected: Any) -> float:
  """Return the largest difference, relative to the largest expected number."""
  found, expected = (np.asarray(value, np.float64) for value in (found, expected))
  assert found.shape == expected.shape, (found.shape, expected.shape)
  return float(np.abs(found - expected).max() / np.abs(expected).max())
