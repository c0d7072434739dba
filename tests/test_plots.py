"""Plots of plans and of drift: the grid of a plan computed by hand, and plots that show their data."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from vdm_jax import plots
from vdm_jax.plots import ABSENT, DISCARDED, MADE, MADE_FROM_LOW, SEEN


class Window(NamedTuple):
  frames: tuple[int, ...]
  seen: tuple[bool, ...]
  kept: tuple[bool, ...]
  low_seen: tuple[bool, ...]


def window(first, letters, stride=1):
  """m: made, l: made and seen at low resolution, s: seen, S: seen at both resolutions, x and X: thrown away."""
  return Window(
    tuple(range(first, first + stride * len(letters), stride)),
    tuple(letter in 'sS' for letter in letters),
    tuple(letter in 'ml' for letter in letters),
    tuple(letter in 'lSX' for letter in letters),
  )


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


def saved(monkeypatch):
  """A list that gets every figure that is written from now on."""
  figures, save = [], plots._save
  monkeypatch.setattr(plots, '_save', lambda figure, path: (figures.append(figure), save(figure, path)))
  return figures


def count(picture, code):
  color = [int(plots.COLORS[code][i : i + 2], 16) for i in (1, 3, 5)]
  return int((picture == color).all(axis=-1).sum())


def test_a_plan_by_hand():
  grid = plots.plan_grid([window(0, 'ssml'), window(3, 'smx'), window(1, 'SXl', stride=2)], 6)
  o, m, l, s, x = ABSENT, MADE, MADE_FROM_LOW, SEEN, DISCARDED  # noqa: E741
  np.testing.assert_array_equal(grid, [[s, s, m, l, o, o], [o, o, o, s, m, x], [o, s, o, x, o, l]])


def test_frames_past_the_end_are_ignored():
  np.testing.assert_array_equal(plots.plan_grid([window(1, 'smxxx')], 3), [[ABSENT, SEEN, MADE]])


def test_cells_have_the_areas_of_their_counts(tmp_path):
  """12 made, 6 seen, 3 from low resolution and 3 thrown away cells of one size."""
  windows = [window(0, 'mmmmmmmm'), window(4, 'ssssssml'), window(8, 'mmmllxxx')]
  plots.draw_plan(tmp_path / 'a.png', windows, num_frames=16)
  plan = pixels(tmp_path / 'a.png')[:-40]  # without the legend
  made, seen, low, thrown = (count(plan, code) for code in (MADE, SEEN, MADE_FROM_LOW, DISCARDED))
  assert seen / made == pytest.approx(6 / 12, rel=0.05)
  assert low / made == pytest.approx(3 / 12, rel=0.05)
  assert thrown / made == pytest.approx(3 / 12, rel=0.05)


def test_the_first_window_is_at_the_top_and_time_runs_to_the_right(tmp_path):
  plots.draw_plan(tmp_path / 'a.png', [window(0, 'mm'), window(2, 'ss')], num_frames=4)
  picture = pixels(tmp_path / 'a.png')

  def middle(code):  # of the cells: the legend's patches are few
    color = [int(plots.COLORS[code][i : i + 2], 16) for i in (1, 3, 5)]
    return np.median(np.argwhere((picture == color).all(axis=-1)), axis=0)

  assert (middle(MADE) < middle(SEEN)).all()


@pytest.mark.parametrize('num_windows', [1, 2, 200, 201, 700])
def test_height_is_limited_and_omitted_rows_are_named(tmp_path, monkeypatch, num_windows):
  figures = saved(monkeypatch)
  windows = [window(12 * number, 'ssss' + 12 * 'm') for number in range(num_windows)]
  plots.draw_plan(tmp_path / 'a.png', windows, num_frames=12 * num_windows + 4)
  height, width, _ = pixels(tmp_path / 'a.png').shape
  assert height <= 1600
  assert width <= 2400
  title = f'{12 * num_windows + 4} frames in {num_windows} windows'
  if num_windows > 200:
    title += f'; windows 101 to {num_windows - 100} '
  assert figures[0].axes[0].get_title().startswith(title)


def test_made_frames_show_in_a_plan_of_any_length(tmp_path):
  """Sixteen frames of 30,000 are less than a pixel wide."""
  plots.draw_plan(tmp_path / 'a.png', [window(15_000, 16 * 'm'), window(0, 'x')], num_frames=30_000)
  plots.draw_plan(tmp_path / 'b.png', [window(15_000, 16 * 's'), window(0, 'x')], num_frames=30_000)
  assert (pixels(tmp_path / 'a.png') != pixels(tmp_path / 'b.png')).any()
  picture = pixels(tmp_path / 'a.png')[:, 800:1600]  # the middle of the plan
  assert count(picture[:120], MADE) > 20


def record(scale=1.0):
  return {
    'frames': 12,
    'blocks': [
      {'name': 'given', 'first': 0, 'last': 3, 'color_mean': [0.0, 0.1], 'motion': 0.1 * scale},
      {'name': '0', 'first': 4, 'last': 10, 'color_mean': [0.2, 0.1], 'motion': 0.2},
      {'name': '1', 'first': 11, 'last': 11, 'color_mean': [0.2, 0.1], 'motion': None},
    ],
    'seams': [{'frame': 4, 'change': 0.3, 'score': 1.5}, {'frame': 11, 'change': 0.0, 'score': None}],
    'seam_score': 1.5,
  }


def test_drift_draws_one_line_per_video_at_its_frames(tmp_path, monkeypatch):
  figures = saved(monkeypatch)
  plots.draw_drift(tmp_path / 'a.png', {'one': record(), '_$x': record(2.0)})
  motion, color, seams = figures[0].axes
  np.testing.assert_array_equal(motion.lines[1].get_xydata(), [[1.5, 0.2], [7, 0.2], [11, np.nan]])
  np.testing.assert_allclose(color.lines[0].get_xydata(), [[1.5, 0.05], [7, 0.15], [11, 0.15]])
  np.testing.assert_array_equal(seams.lines[0].get_xydata(), [[4, 1.5], [11, np.nan]])
  assert [axis.get_ylabel() for axis in figures[0].axes] == ['motion', 'mean color', 'seam score (1: no seam)']
  assert seams.get_xlabel() == 'frame'
  assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ['one', r' _\$x']


@pytest.mark.parametrize('draw', ['drift', 'plan'])
def test_pictures_are_deterministic_and_show_their_data(tmp_path, draw):
  def picture(name, changed):
    path = tmp_path / 'new' / name
    if draw == 'drift':
      plots.draw_drift(path, {'a $1$ b$': record(2.0 if changed else 1.0)})
    else:
      plots.draw_plan(path, [window(0, 'mmms' if changed else 'mmmm')], num_frames=6)
    return path

  first, again, other = picture('a.png', False), picture('b.png', False), picture('c.png', True)
  assert first.read_bytes() == again.read_bytes()
  assert (pixels(first) != pixels(other)).any()
  assert len(np.unique(pixels(first).reshape(-1, 3), axis=0)) > 3
  with Image.open(first) as image:
    assert image.info.keys() <= {'dpi'}  # no date, no version
  assert sorted(file.name for file in first.parent.iterdir()) == ['a.png', 'b.png', 'c.png']


def test_a_failed_drawing_leaves_the_old_picture(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  plots.draw_drift(path, {'a': record()})
  before = path.read_bytes()

  def fail(self, file, **_):
    file.write(b'part of a picture')
    raise MemoryError('too large')

  monkeypatch.setattr('matplotlib.figure.Figure.savefig', fail)
  with pytest.raises(MemoryError, match='too large'):
    plots.draw_drift(path, {'b': record(2.0)})
  assert path.read_bytes() == before
  assert [file.name for file in tmp_path.iterdir()] == ['a.png']


def test_matplotlib_is_imported_when_drawing_and_pyplot_never():
  program = (
    'import sys; from vdm_jax import plots; assert "matplotlib" not in sys.modules; '
    'plots._figure(1, 1); assert "matplotlib" in sys.modules; assert "matplotlib.pyplot" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', program], check=True)


def test_errors(tmp_path):
  path = tmp_path / 'a.png'
  with pytest.raises(ValueError, match='draw_drift'):
    plots.draw_drift(path, {})
  with pytest.raises(ValueError, match='plan_grid .* 0 and 4'):
    plots.draw_plan(path, [], num_frames=4)
  bad = Window((0, 1), (False,), (True, True), (False, False))
  with pytest.raises(ValueError, match=f'window 1 differ in length: {re.escape(str(bad))}'):
    plots.draw_plan(path, [window(0, 'mm'), bad], num_frames=4)
  for frames in ((1, 1), (-1, 0)):
    with pytest.raises(ValueError, match=f'frames of window 0 do not increase .*{re.escape(str(frames))}'):
      plots.draw_plan(path, [window(0, 'mm')._replace(frames=frames)], num_frames=4)
  assert not path.exists()


def test_curves_are_drawn_at_their_mean(monkeypatch, tmp_path):
  figures = saved(monkeypatch)
  plots.draw_curves(tmp_path / 'curves.png', {'a': [[1, 2], [3, 6]], 'b': [[0, 0]]}, x='frame', y='error')
  axis = figures[0].axes[0]
  assert [line.get_ydata().tolist() for line in axis.lines] == [[2, 4], [0, 0]]
  band = axis.collections[0].get_paths()[0].vertices
  assert {tuple(corner) for corner in band} >= {(0, 1), (1, 2), (1, 6), (0, 3)}
  assert (axis.get_xlabel(), axis.get_ylabel()) == ('frame', 'error')


def test_a_sweep_is_drawn_with_a_plot_for_each_metric_and_bars_where_a_spread_is_known(monkeypatch, tmp_path):
  figures = saved(monkeypatch)
  metrics = {
    'fvd': {'train': [(8, 3.0, 0.5), (16, 2.0, 0.25)], 'published': [(16, 1.0, None)]},
    'is': {'splits_1': [(8, 9.0, None), (16, 10.0, None)]},
  }
  plots.draw_sweep(tmp_path / 'sweep.png', metrics, x='sampling.num_steps', log=True)
  fvd, score = figures[0].axes
  assert [container.lines[0].get_xydata().tolist() for container in fvd.containers] == [[[8, 3], [16, 2]], [[16, 1]]]
  (bars,) = fvd.containers[0].lines[2]
  assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[2.5, 3.5], [1.75, 2.25]]
  assert not score.containers[0].lines[2] and score.get_xscale() == 'log'
  assert (fvd.get_xlabel(), fvd.get_ylabel()) == ('sampling.num_steps', 'fvd')
  with pytest.raises(ValueError, match='draw_sweep'):
    plots.draw_sweep(tmp_path / 'sweep.png', {}, x='x')


def test_no_curves_are_an_error(tmp_path):
  with pytest.raises(ValueError, match='draw_curves'):
    plots.draw_curves(tmp_path / 'curves.png', {}, x='frame', y='error')
