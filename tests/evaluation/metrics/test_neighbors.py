"""Diversity, precision and recall, memorization and motion: equal to plain loops, and right in known cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from vdm_jax.evaluation import compare_motion, mean_pairwise, memorization, motion, nearest
from vdm_jax.evaluation.metrics import neighbors
from vdm_jax.evaluation.metrics.neighbors import precision_recall

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((37, 5)) + 1e4, 1.3 * RNG.standard_normal((29, 5)) + 1e4


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch):
  monkeypatch.setattr(neighbors, 'ROWS', 10)


def test_mean_pairwise_counts_every_pair_of_a_group_once():
  table = cdist(X, X)
  assert mean_pairwise(X) == pytest.approx(table[np.triu_indices(37, 1)].mean(), rel=1e-9)
  groups = np.arange(37) % 4
  pairs = [table[i, j] for i in range(37) for j in range(i) if groups[i] == groups[j]]
  assert mean_pairwise(X, groups) == pytest.approx(np.mean(pairs), rel=1e-9)
  assert mean_pairwise(X, np.arange(37)) is None


def test_precision_and_recall_are_those_of_their_definition():
  def covered(points, centres, k):
    radii = np.sort(cdist(centres, centres), axis=1)[:, k]
    return (cdist(points, centres) <= radii).any(1).mean()

  for k in (1, 3):
    assert precision_recall(X, Y, k=k) == pytest.approx({'precision': covered(X, Y, k), 'recall': covered(Y, X, k)})
  assert 0 < precision_recall(X, Y)['recall'] < 1


def test_few_modes_keep_precision_and_lose_recall():
  real = np.concatenate([RNG.standard_normal((50, 2)), RNG.standard_normal((50, 2)) + 100])
  one_mode = RNG.standard_normal((100, 2)) * 0.5
  found = precision_recall(one_mode, real)
  assert found['precision'] > 0.9 and found['recall'] < 0.55
  assert precision_recall(real, real) == {'precision': 1.0, 'recall': 1.0}
  with pytest.raises(ValueError, match='k=3'):
    precision_recall(real[:3], real)


def test_copies_of_training_clips_are_distinguished_from_new_ones():
  train, held_out, fresh = (RNG.standard_normal((200, 4)) for _ in range(3))
  np.testing.assert_allclose(nearest(held_out, train), cdist(held_out, train).min(1), rtol=1e-6)
  copies = train[:100] + 1e-3
  learned, copied = memorization(fresh, held_out, train), memorization(copies, held_out, train)
  assert 0.8 < learned['ratio'] < 1.25 and learned['share_near'] < 0.15
  assert copied['ratio'] < 0.02 and copied['share_near'] > 0.95


def test_motion_is_the_mean_change_from_frame_to_frame():
  videos = RNG.integers(0, 256, (3, 4, 2, 2, 3)).astype(np.uint8)
  expected = np.abs(np.diff(videos.astype(float) / 127.5 - 1, axis=1)).mean((1, 2, 3, 4))
  np.testing.assert_allclose(motion(videos), expected, rtol=1e-12)
  still = np.repeat(videos[:, :1], 4, axis=1)
  assert motion(still).max() == 0
  assert compare_motion(motion(still), expected)['dynamic_images'] is True
  assert compare_motion(0.51 * expected, expected)['dynamic_images'] is False
  for bad in (videos.astype(np.float32), videos[0], videos[:, :1]):
    with pytest.raises(ValueError, match='motion: '):
      motion(bad)
