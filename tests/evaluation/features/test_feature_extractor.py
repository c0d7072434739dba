"""Extractors refuse invalid clips, and features depend neither on the batch size nor on the devices."""

from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.process_group import virtual

from vdm_jax.evaluation.features import load
from vdm_jax.evaluation.features.clip_image import square
from vdm_jax.evaluation.features.contract import Network
from vdm_jax.evaluation.features.extractor import build


def forward(params, rows):
  rows = rows.astype(jnp.float32)
  return params * rows.mean(range(1, rows.ndim))[:, None], rows.reshape(len(rows), -1)[:, :2]


def network(of_images: bool = False, calls: list | None = None, **changes) -> Network:
  def on_host(rows):
    if calls is not None:
      calls.append(rows.shape)
    return rows

  return Network('toy', forward, (2, None), of_images, 4, on_host)._replace(**changes)


def clips(n: int, t: int = 3) -> np.ndarray:
  return np.random.default_rng(n).integers(0, 256, (n, t, 4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    (clips(2).astype(np.float32) / 255, r'these clips are float32: .*round\(\(x \+ 1\) \* 127.5\)'),
    (clips(2).astype(np.int16), 'these clips are int16'),
    (clips(2)[0], r'these clips have shape \(3, 4, 5, 3\)'),
    (clips(2)[..., :1], r'these clips have shape \(2, 3, 4, 5, 1\)'),
    (clips(2)[:0], r'these clips have shape \(0, 3, 4, 5, 3\)'),
    (clips(2, t=1), 't 2 or more; these clips have 1 frames'),
    (clips(2).transpose(0, 4, 1, 2, 3), r'these clips have shape \(2, 3, 3, 4, 5\)'),
  ],
)
def test_clips_of_another_kind_are_refused(wrong, message):
  extractor = build(network(), 'none', np.float32(1))
  with pytest.raises(ValueError, match=rf"^features of 'toy' are of uint8 \[n t h w 3\], RGB.*{message}"):
    extractor.apply(wrong)


def test_a_network_with_a_fixed_number_of_frames_names_it():
  extractor = build(network(frames=(16, 16)), 'none', np.float32(1))
  for t in (15, 17):
    with pytest.raises(ValueError, match=f't exactly 16; these clips have {t} frames'):
      extractor.apply(clips(1, t))


def test_i3d_needs_nine_frames():
  """The last pool spans two time steps, and 8 frames leave one."""
  extractor = load('i3d', None, seed=0, width=1 / 60)
  with pytest.raises(ValueError, match='t 9 or more; these clips have 8 frames'):
    extractor.apply(clips(1, t=8))


@pytest.mark.parametrize('n', [1, 2, 3, 4, 5, 9])
def test_features_do_not_depend_on_the_number_of_clips_and_calls_have_few_sizes(n):
  calls = []
  given = clips(n)
  made = build(network(calls=calls), 'none', np.float32(2)).apply(given)
  np.testing.assert_allclose(made.pool[:, 0], 2 * given.astype(np.float64).mean((1, 2, 3, 4)), rtol=1e-6)
  np.testing.assert_array_equal(made.logits, given.reshape(n, -1)[:, :2])
  assert {shape[0] for shape in calls} == {{1: 1, 2: 2}.get(n, 4)} and len(calls) == -(-n // 4)


def test_networks_of_images_have_one_row_per_frame():
  given = clips(3)
  made = build(network(of_images=True), 'none', np.float32(1)).apply(given)
  assert made.pool.shape == (3, 3, 1)
  np.testing.assert_allclose(made.pool[..., 0], given.mean((2, 3, 4)), rtol=1e-6)
  no_classes = network(of_images=True, forward=lambda params, rows: (forward(params, rows)[0], None))
  assert build(no_classes, 'none', np.float32(1)).apply(given).logits is None


ON_FOUR = """
import jax, numpy as np
from vdm_jax import partitioning
from vdm_jax.evaluation.features.contract import Network
from vdm_jax.evaluation.features.extractor import build

def forward(params, rows):
  return rows.astype('float32').mean((2, 3, 4)) @ params, None

seen = []
network = Network('toy', forward, (2, None), False, 2, lambda rows: seen.append(len(rows)) or rows)
clips = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 5, 3), dtype=np.uint8)
params = np.random.default_rng(1).standard_normal((3, 4), np.float32)
one = build(network, 'none', params).apply(clips).pool
for sizes, calls in (({'data': 4}, [8, 8]), ({'data': 2, 'tensor': 2}, [4, 4, 4]), ({'data': 2, 'fsdp': 2}, [8, 8])):
  seen.clear()
  many = build(network, 'none', params, partitioning.make_mesh(sizes)).apply(clips).pool
  np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-5)
  assert seen == calls, (sizes, seen)
"""


def test_four_devices_give_what_one_gives():
  run = subprocess.run([sys.executable, '-c', ON_FOUR], env=virtual(4), capture_output=True, text=True, timeout=200)
  assert run.returncode == 0, run.stderr


def test_frames_for_clip_are_cropped_to_their_center():
  frame = np.zeros((24, 35, 3), np.uint8)
  frame[:, 5:29] = 200  # 35 - 24 leaves 5 on the left and 6 on the right
  np.testing.assert_array_equal(square(frame, 24), np.full((24, 24, 3), 200, np.uint8))
  tall = np.moveaxis(frame, 0, 1)
  np.testing.assert_array_equal(square(tall, 24), np.full((24, 24, 3), 200, np.uint8))
  assert square(frame, 7).shape == (7, 7, 3)
