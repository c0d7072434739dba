"""Plans: every frame is made once, by a window that sees the right frames, for all numbers."""

from __future__ import annotations

import itertools

import pytest

from vdm_jax.generation import extension, hierarchy, interpolation, super_resolution


def chosen(window, which):
  return [frame for frame, yes in zip(window.frames, which, strict=True) if yes]


def check(plan, block, overlap, low=()):
  """Check the laws of every plan: evenly spaced windows of one length see all that exists and make the rest once."""
  exist = set(plan.given)
  for window in plan.windows:
    assert len(window.frames) == block and {*range(plan.num_frames)} >= {*chosen(window, window.kept)}
    assert {b - a for a, b in itertools.pairwise(window.frames)} == {window.stride}
    assert chosen(window, window.seen) == [frame for frame in window.frames if frame in exist]
    assert chosen(window, window.low_seen) == [frame for frame in window.frames if frame in low]
    made = chosen(window, window.kept)
    assert made and not exist & {*made}
    earlier = {frame for frame in exist if frame < made[0] and (made[0] - frame) % window.stride == 0}
    assert len([f for f in window.frames if f < made[0] and f in exist]) >= min(overlap, len(earlier))
    exist |= {*made}
  assert exist >= {*range(plan.num_frames)}


@pytest.mark.parametrize('overlap', [1, 2, 4, 7])
@pytest.mark.parametrize('given', [0, 1, 5, 8, 13])
@pytest.mark.parametrize('more', [1, 3, 8, 29])
def test_extension_makes_every_frame_once(overlap, given, more):
  plan = extension(given + more, 8, overlap=overlap, given=given)
  check(plan, 8, overlap)
  assert plan.given == tuple(range(given))


def test_extension_by_half_a_block():
  """VDM section 4.3.3: 64 frames of a 16-frame model."""
  plan = extension(64, 16, overlap=8)
  assert [chosen(w, w.kept) for w in plan.windows] == [[*range(16)], *([*range(s, s + 8)] for s in range(16, 64, 8))]
  assert [chosen(w, w.seen) for w in plan.windows[1:]] == [[*range(s - 8, s)] for s in range(16, 64, 8)]
  assert plan.block_starts == (0, 16, 24, 32, 40, 48, 56)


def test_prediction_is_one_window_that_sees_all_given_frames():
  """Kinetics: 5 frames given, 11 predicted."""
  (window,) = extension(16, 16, overlap=8, given=5).windows
  assert chosen(window, window.seen) == [0, 1, 2, 3, 4] and chosen(window, window.kept) == [*range(5, 16)]


def test_the_last_window_ends_with_the_video_and_one_longer_than_it_throws_frames_away():
  assert extension(19, 8, overlap=2).windows[-1].frames == tuple(range(11, 19))
  (window,) = extension(5, 8, overlap=2).windows
  assert window.frames == tuple(range(8)) and chosen(window, window.kept) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
  ('given', 'factor', 'overlap'),
  [(2, 2, 1), (2, 7, 1), (5, 4, 1), (5, 4, 4), (9, 2, 3), (9, 2, 6), (9, 3, 5), (30, 5, 2), (30, 5, 3)],
)
def test_interpolated_frames_see_the_given_ones_on_both_sides(given, factor, overlap):
  plan = interpolation(given, factor, 8, overlap=overlap)
  assert plan.num_frames == (given - 1) * factor + 1 and plan.given == tuple(range(0, plan.num_frames, factor))
  check(plan, 8, overlap)
  for window in plan.windows:
    seen = {*chosen(window, window.seen)}
    for frame in chosen(window, window.kept):
      assert {frame // factor * factor, -(-frame // factor) * factor} <= seen


def test_figure_2_of_vdm():
  """16 frames at a skip of 4 to 64 at 1, with a 9-frame model; they span 61, and the last three are extrapolated."""
  plan = super_resolution(16, 9, factor=4, num_frames=64)
  check(plan, 9, 1, low=range(0, 61, 4))
  assert plan.low == tuple(range(0, 61, 4)) and plan.given == () and len(plan.windows) == 8
  assert [chosen(w, w.low_seen) for w in plan.windows[:7]] == [[s, s + 4, s + 8] for s in range(0, 56, 8)]
  last = plan.windows[-1]
  assert chosen(last, last.kept) == [*range(57, 64)] and chosen(last, last.low_seen) == [56, 60]
  assert super_resolution(16, 9, factor=4).num_frames == 61


def test_a_window_leaves_what_lies_beyond_its_last_low_resolution_frame_to_the_next():
  first, second = super_resolution(4, 8, factor=3).windows
  assert chosen(first, first.kept) == [*range(7)] and chosen(second, second.kept) == [7, 8, 9]
  (only,) = super_resolution(5, 8).windows
  assert chosen(only, only.low_seen) == chosen(only, only.kept) == [*range(5)]


@pytest.mark.parametrize('num_frames', [2, 17, 33, 64, 100])
@pytest.mark.parametrize('rates', [(8,), (2, 8), (1, 4, 8), (0.5, 1, 7)])
def test_a_hierarchy_fills_level_after_level(rates, num_frames):
  """Snap C.5: the lowest rate block by block from its last frame; then each level sees all frames that exist."""
  plan = hierarchy(num_frames, rates, 8)
  check(plan, 8, 1)
  strides = [round(rates[-1] / rate) for rate in rates]
  assert [s for s, _ in itertools.groupby(w.stride for w in plan.windows)] == [
    s
    for s in strides
    if s == strides[0] or num_frames > s  # a level that would have one frame makes nothing new
  ]
  lowest = [w for w in plan.windows if w.stride == strides[0]]
  if len(rates) > 1 and len(lowest) > 2:
    assert len(chosen(lowest[1], lowest[1].seen)) == 1


def test_a_plan_reads_as_text():
  assert str(hierarchy(17, (2, 8), 8)).splitlines() == [
    '17 frames in 5 windows of 8',
    '     1: makes 0-16 in steps of 4',
    '     2: makes 1-3; sees 0, 4',
    '     3: makes 5-7; sees 4, 8',
    '     4: makes 9-11; sees 8, 12',
    '     5: makes 13-15; sees 9-12, 16',
  ]
  assert str(super_resolution(2, 9, factor=4)).splitlines()[1] == '     1: makes 0-4; sees 0, 4 at low resolution'


REFUSED = [
  (lambda: extension(20, 8, overlap=8), 'overlap=8 .*1 to 7'),
  (lambda: extension(20, 8, overlap=0), 'overlap=0.*1 to 7'),
  (lambda: extension(5, 8, overlap=4, given=5), 'num_frames=5.* 5 '),
  (lambda: extension(0, 8, overlap=4, given=-1), 'num_frames=0'),
  (lambda: interpolation(1, 2, 8), '1 .*given'),
  (lambda: interpolation(3, 8, 8), 'factor.* 8 .*2 to 7'),
  (lambda: interpolation(5, 4, 8, overlap=5), 'overlap=5 .*1 to 4'),
  (lambda: interpolation(3, 4, 8, num_frames=13), 'num_frames=13.* 9.*9 to 12'),
  (lambda: super_resolution(3, 8, factor=8), 'factor.* 8 .*1 to 7'),
  (lambda: hierarchy(20, (3, 8), 8), 'rate.* 8 cannot follow 3.* 7 .*3, 6'),
  (lambda: hierarchy(20, (), 8), 'frame_rates is empty'),
]


@pytest.mark.parametrize(('make', 'message'), REFUSED)
def test_invalid_plans_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
