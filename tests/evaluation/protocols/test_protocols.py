"""Protocols are consistent and agree with the papers, and records of different protocols are not compared."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax.evaluation import METRICS, PROTOCOLS, Metric, compare
from vdm_jax.evaluation.extraction import center_crop, check_clips, check_range, extract
from vdm_jax.evaluation.features import FEATURE_NETWORKS
from vdm_jax.evaluation.protocols import prompts, snap, vdm
from vdm_jax.evaluation.protocols.contract import TASKS, Protocol

PUBLISHED = [value for module in (vdm, snap) for value in vars(module).values() if isinstance(value, Protocol)]


@pytest.mark.parametrize('protocol', PUBLISHED, ids=lambda protocol: protocol.name)
def test_every_protocol_of_a_paper_compares_features_and_optimizes_a_distance(protocol):
  assert PROTOCOLS[protocol.name] is protocol
  assert any(metric.kind == 'frechet' and metric.frames != 'each' for metric in protocol.metrics), 'for neighbors'
  assert METRICS[protocol.metrics[0].kind].lower_is_better, 'sweeps optimize a distance'


@pytest.mark.parametrize('name', PROTOCOLS)
def test_every_protocol_is_complete(name):
  protocol = PROTOCOLS[name]
  assert protocol.name == name and protocol.task in TASKS
  names = [metric.name for metric in protocol.metrics]
  assert len(set(names)) == len(names) and all(metric.kind in METRICS for metric in protocol.metrics)
  assert set(protocol.networks) <= set(FEATURE_NETWORKS)
  assert bool(protocol.metrics) == (protocol.evaluate is None)
  assert protocol.evaluate is None or protocol.objective
  variants = {'frechet': protocol.references, 'inception': ('splits_1', 'splits_10'), 'similarity': ('mean',)}
  kinds = {metric.name: metric.kind for metric in protocol.metrics}
  for figure in (*protocol.published, *protocol.calibration):
    assert figure.variant in variants.get(kinds[figure.metric], [figure.variant])
  assert protocol.given_frames < max(1, protocol.num_frames)
  assert (protocol.given_frames > 0) == (protocol.task == 'prediction')
  assert protocol.prompts is None or protocol.prompts in prompts.NAMES
  with pytest.raises(AttributeError):
    protocol.num_samples = 1


def test_samples_and_frames_are_those_of_the_papers():
  def facts(name):
    p = PROTOCOLS[name]
    return p.num_samples, p.num_references, p.given_frames, p.num_frames, p.height, p.width

  assert facts('vdm-ucf101-c3d-10k') == (10_000, None, 0, 16, 64, 64)
  assert facts('vdm-bair-100x256') == (100 * 256, 256, 1, 16, 64, 64)
  assert facts('vdm-kinetics600-50k') == (50_000, 50_000, 5, 16, 64, 64)
  assert facts('vdm-t2v-4096') == (4096, 4096, 0, 16, 64, 64)
  assert facts('snap-msrvtt-59800') == (59_800, 2_990, 0, 16, 288, 512)
  assert facts('snap-internal-50k') == (50_000, 50_000, 0, 16, 36, 64)
  assert PROTOCOLS['snap-msrvtt-59800'].num_samples == 20 * PROTOCOLS['snap-msrvtt-59800'].num_references
  assert len(prompts.read('ucf101')) == 101
  with_replacement = PROTOCOLS['vdm-kinetics600-50k-replacement']
  assert with_replacement.replacement and not PROTOCOLS['vdm-kinetics600-50k'].replacement
  # Table 5 prints 1 + w: the unguided row is its weight 1.
  rows = [figure for figure in PROTOCOLS['vdm-t2v-4096'].published if 'Table 5' in figure.source]
  assert len(rows) == 60 and {dict(figure.setting)['sampling.guidance_weight'] for figure in rows} == {0.0, 1.0, 4.0}


def test_features_are_computed_once_per_network_and_size():
  calls = []

  class Fake:
    def apply(self, videos):
      calls.append(videos.shape)
      rows = videos.astype(np.float32).mean((2, 3))  # [n t c]
      return type('Features', (), {'pool': rows, 'logits': 2 * rows})()

  metrics = (
    Metric('a', 'frechet', 'net', frames='mean'),
    Metric('b', 'inception', 'net', 'logits', frames='first'),
    Metric('c', 'frechet', 'net', frames='each'),
    Metric('d', 'frechet', 'net', frames='mean', size=(2, 4)),
    Metric('e', 'frechet', 'net', frames='mean'),
  )
  videos = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 6, 3)).astype(np.uint8)
  found = extract(metrics, {'net': Fake()}, videos)
  assert calls == [(3, 5, 4, 6, 3), (3, 5, 2, 4, 3)]
  means = videos.astype(np.float32).mean((2, 3))
  np.testing.assert_allclose(found[metrics[0].features], means.mean(1), rtol=1e-6)
  np.testing.assert_allclose(found[metrics[1].features], 2 * means[:, 0], rtol=1e-6)
  np.testing.assert_allclose(found[metrics[2].features], means, rtol=1e-6)
  np.testing.assert_allclose(found[metrics[3].features], videos[:, :, 1:3, 1:5].mean((1, 2, 3)), rtol=1e-5)
  with pytest.raises(ValueError, match='4x6 .* 5x6'):
    center_crop(videos, (5, 6))


def test_videos_of_another_range_size_or_dtype_are_refused_and_never_converted():
  clip = np.zeros((2, 4, 8, 8, 3), np.uint8)
  check_clips(clip, (4, 8, 8, 3), 'samples')
  for bad, message in (
    (clip.astype(np.float32), 'samples are float32'),
    (clip[0], r'samples have shape \(4, 8, 8, 3\)'),
    (clip[:, :3, :, :6], 'samples have 3 frames instead of 4, 6 columns instead of 8'),
  ):
    with pytest.raises(ValueError, match=message):
      check_clips(bad, (4, 8, 8, 3), 'samples')
  check_range(np.array([-1.0, 1.0005], np.float32))
  for bad in (np.array([0.0, 1.01]), np.array([-255.0, 0.0]), np.array([np.nan]), np.array([0, 255], np.uint8)):
    with pytest.raises(ValueError, match='samples (range|are)'):
      check_range(bad)


def record(**changes):
  return {
    'protocol': 'vdm-t2v-4096',
    'metrics': {'fvd': {'test': {'value': 50.0, 'spread': 3.0}}},
    'weights': {'i3d': 'abc'},
    'counts': {'samples': 4096, 'test': 4096},
    'references': {'test': 7},
    'step': 1,
  } | changes


def test_records_of_one_protocol_compare_with_the_spread_of_the_difference():
  better = record(metrics={'fvd': {'test': {'value': 46.0, 'spread': 4.0}}}, step=2)
  expected = {'fvd': {'test': {'a': 50.0, 'b': 46.0, 'difference': -4.0, 'spread': 5.0}}}
  assert compare(record(), better) == expected
  digits = {'protocol': 'digits', 'num_videos': 120, 'weights': 'x', 'digit': 0.5, 'frechet': 9.0}
  assert compare(digits, digits | {'frechet': 8.0})['digits']['frechet']['difference'] == -1.0


@pytest.mark.parametrize(
  ('changes', 'differs'),
  [
    ({'protocol': 'snap-internal-50k'}, "protocol is 'vdm-t2v-4096' and 'snap-internal-50k'"),
    ({'weights': {'i3d': 'random:0'}}, "weights is {'i3d': 'abc'} and {'i3d': 'random:0'}"),
    ({'counts': {'samples': 10, 'test': 4096}, 'references': {'test': 8}}, 'references is '),
  ],
)
def test_records_that_are_not_comparable_are_refused(changes, differs):
  with pytest.raises(ValueError) as error:
    compare(record(), record(**changes))
  assert differs in str(error.value)
