"""Inception Score and CLIPSIM against their definitions and in cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from vdm_jax.evaluation import inception_score, similarity


def naive(logits: np.ndarray, splits: int) -> tuple[float, float]:
  scores = []
  for part in np.array_split(softmax(logits.astype(np.float64), axis=1), splits):
    marginal = part.mean(0)
    scores.append(np.exp(np.mean([(p * (np.log(p) - np.log(marginal))).sum() for p in part])))
  return float(np.mean(scores)), float(np.std(scores))


@pytest.mark.parametrize('splits', [1, 10])
def test_the_streamed_score_is_that_of_its_definition(splits):
  logits = 3 * np.random.default_rng(0).standard_normal((200, 11)) + 1e4
  for cut in (7, 200):
    found = inception_score((logits[i : i + cut] for i in range(0, 200, cut)), 200, splits=splits)
    assert found == pytest.approx(naive(logits, splits), rel=1e-6)


def test_confident_and_even_scores_the_number_of_classes_and_uniform_scores_one():
  confident = 1000.0 * np.eye(6)[np.arange(60) % 6]
  assert inception_score([confident], 60) == pytest.approx((6, 0), rel=1e-9)
  assert inception_score([confident], 60, splits=10) == pytest.approx((6, 0), rel=1e-9)
  assert inception_score([np.zeros((5, 6))], 5) == pytest.approx((1, 0))
  assert inception_score([confident[:1].repeat(5, 0)], 5) == pytest.approx((1, 0)), 'one class alone'


def test_wrong_numbers_of_logits_are_refused():
  for batches, count, splits in (([np.zeros((4, 3))], 5, 1), ([np.zeros((6, 3))], 5, 1), ([np.zeros((4, 3))], 4, 5)):
    with pytest.raises(ValueError, match='inception_score: '):
      inception_score(batches, count, splits=splits)
  with pytest.raises(ValueError, match='NaN or infinity'):
    inception_score([np.full((4, 3), np.inf)], 4)


def test_similarity_is_the_mean_cosine_of_the_frames_whatever_the_norms():
  rng = np.random.default_rng(1)
  frames, text = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 5))
  expected = [
    np.mean([f @ t / np.linalg.norm(f) / np.linalg.norm(t) for f in clip]) for clip, t in zip(frames, text, strict=True)
  ]
  np.testing.assert_allclose(similarity(frames, text), expected, rtol=1e-12)
  np.testing.assert_allclose(similarity(frames * 7, text * 1e-3), expected, rtol=1e-12)
  np.testing.assert_allclose(similarity(text[:, None].repeat(2, 1), text), 1.0)
  for bad in ((frames[:, 0], text), (frames, text[:2]), (0 * frames, text)):
    with pytest.raises(ValueError, match='clipsim: '):
      similarity(*bad)
