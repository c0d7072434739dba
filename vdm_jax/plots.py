"""Plots of measurements and of the plans of long videos. matplotlib is imported on first use."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

# The role of a frame in a window: codes of `plan_grid`, with their colors and names.
ABSENT, DISCARDED, SEEN, MADE_FROM_LOW, MADE = range(5)
COLORS = ('#ffffff', '#999999', '#e69f00', '#56b4e9', '#0072b2')
NAMES = ('not in the window', 'generated, discarded', 'given', 'generated from low resolution', 'generated')
MAX_ROWS = 200
MAX_COLUMNS = 2000  # about the width in pixels
DPI = 100


class PlannedWindow(Protocol):
  """One call of the model; all tuples have the length of `frames`."""

  frames: tuple[int, ...]  # increasing positions in the whole video; those past its end are not drawn
  seen: tuple[bool, ...]  # given to the window
  kept: tuple[bool, ...]  # written by the window
  low_seen: tuple[bool, ...]  # given to it at low resolution


def draw_drift(path: str | os.PathLike, records: Mapping[str, Mapping[str, Any]]) -> None:
  """Write a PNG of the results of `evaluation.metrics.drift`: one line per video, against the frame number.

  From top to bottom: the motion of each block and its mean color over all channels, at the middle of the block, and the
  score of each seam, at its frame. None leaves a gap. Raises ValueError if there are no records.
  """
  if not records:
    raise ValueError('draw_drift needs at least one record: give the result of drift for each video, by name.')
  figure = _figure(9, 8)
  axes = figure.subplots(3, sharex=True)
  lines = []
  for record in records.values():
    middles = [(block['first'] + block['last']) / 2 for block in record['blocks']]
    motion = [block['motion'] for block in record['blocks']]
    color = [np.mean(block['color_mean']) for block in record['blocks']]
    frames, scores = [seam['frame'] for seam in record['seams']], [seam['score'] for seam in record['seams']]
    for axis, x, y in zip(axes, (middles, middles, frames), (motion, color, scores), strict=True):
      (line,) = axis.plot(x, np.array(y, float), marker='o', markersize=3, linewidth=1)
    lines.append(line)
  axes[0].set_ylim(bottom=0)
  axes[2].axhline(1, color='#bbbbbb', linewidth=0.8, zorder=0)
  for axis, label in zip(axes, ('motion', 'mean color', 'seam score (1: no seam)'), strict=True):
    axis.set_ylabel(label)
  axes[2].set_xlabel('frame')
  names = [_plain(name) for name in records]
  figure.legend(lines, names, loc='outside upper center', fontsize='small', ncols=min(3, len(names)))
  _save(figure, path)


def draw_plan(path: str | os.PathLike, windows: Sequence[PlannedWindow], *, num_frames: int) -> None:
  """Write a PNG with a row per window, the first at the top, and a column per frame, colored by `plan_grid`.

  With more than 2000 frames, a column stands for several and shows the highest of their codes, so that every generated
  frame is visible. Of more than 200 windows, the first and last 100 are drawn, which the title mentions. Raises
  ValueError under the conditions of `plan_grid`.
  """
  import matplotlib.colors
  import matplotlib.patches
  import matplotlib.ticker

  half = MAX_ROWS // 2
  cut = len(windows) > MAX_ROWS
  numbers = [*range(half), *range(len(windows) - half, len(windows))] if cut else [*range(len(windows))]
  grid = plan_grid([windows[number] for number in numbers], num_frames)
  used = [code for code in (MADE, MADE_FROM_LOW, SEEN, DISCARDED) if (grid == code).any()]
  each = -(-num_frames // MAX_COLUMNS)  # frames per column
  grid = np.pad(grid, ((0, 0), (0, -num_frames % each))).reshape(len(grid), -1, each).max(axis=-1)
  figure = _figure(np.clip(2 + 0.08 * num_frames, 8, 24), np.clip(1.5 + 0.2 * len(grid), 3, 16))
  axis = figure.subplots()
  axis.pcolormesh(
    each * np.arange(grid.shape[1] + 1) - 0.5,
    np.arange(len(grid) + 1) - 0.5,
    grid,
    cmap=matplotlib.colors.ListedColormap(COLORS),
    vmin=ABSENT - 0.5,
    vmax=MADE + 0.5,
    edgecolors='#dddddd' if grid.shape[1] <= 250 and len(grid) <= 60 else 'none',
    linewidth=0.3,
  )
  axis.invert_yaxis()
  axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
  rows = range(0, len(grid), max(1, -(-len(grid) // 25)))
  axis.set_yticks(rows, [str(numbers[row] + 1) for row in rows])
  axis.set_xlabel('frame')
  axis.set_ylabel('window')
  title = f'{num_frames} frames in {len(windows)} windows'
  if cut:
    axis.axhline(half - 0.5, color='black', linewidth=1)
    title += f'; windows {half + 1} to {len(windows) - half} are omitted at the black line'
  axis.set_title(title, fontsize='medium')
  patches = [matplotlib.patches.Patch(color=COLORS[code], label=NAMES[code]) for code in used]
  figure.legend(handles=patches, loc='outside lower center', ncols=len(used), fontsize='small')
  _save(figure, path)


def draw_curves(path: str | os.PathLike, curves: Mapping[str, Sequence[Sequence[float]]], *, x: str, y: str) -> None:
  """Write a PNG of named curves: the mean over seeds, and a band from the lowest to the highest.

  Args:
    path: the file.
    curves: a list of equally long lists, one per seed, by name; plotted against 0, 1, 2, ...
    x: label of the horizontal axis.
    y: label of the vertical axis.

  Raises:
    ValueError: there are no curves.
  """
  if not curves:
    raise ValueError('draw_curves needs at least one curve: give a list of measurements per seed, by name.')
  figure = _figure(9, 4.5)
  axis = figure.subplots()
  for name, measured in curves.items():
    values = np.array(measured, float)
    (line,) = axis.plot(values.mean(axis=0), linewidth=1.2, label=_plain(name))
    axis.fill_between(
      range(values.shape[1]), values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.12, linewidth=0
    )
  axis.set_xlabel(x)
  axis.set_ylabel(y)
  axis.legend(fontsize='small')
  _save(figure, path)


def draw_sweep(
  path: str | os.PathLike,
  metrics: Mapping[str, Mapping[str, Sequence[tuple[float, float, float | None]]]],
  *,
  x: str,
  log: bool = False,
) -> None:
  """Write a PNG with one plot per metric.

  Args:
    path: the file.
    metrics: metric -> name of a line -> points (x, y, spread); a known spread is drawn as an error bar.
    x: label of the common horizontal axis.
    log: logarithmic horizontal axis, base 2.

  Raises:
    ValueError: there are no metrics.
  """
  if not metrics:
    raise ValueError('draw_sweep needs at least one metric: give its lines by name.')
  columns = min(3, len(metrics))
  rows = -(-len(metrics) // columns)
  figure = _figure(4.5 * columns, 3.5 * rows)
  axes = figure.subplots(rows, columns, squeeze=False)
  for axis in axes.flat[len(metrics) :]:
    axis.remove()
  for axis, (name, lines) in zip(axes.flat, metrics.items(), strict=False):
    for label, points in lines.items():
      at, y, spread = zip(*points, strict=True)
      bars = None if None in spread else spread
      axis.errorbar(at, y, yerr=bars, marker='o', markersize=3, linewidth=1, capsize=2, label=_plain(label))
    if log:
      axis.set_xscale('log', base=2)
    axis.set_xlabel(_plain(x))
    axis.set_ylabel(_plain(name))
    axis.legend(fontsize='small')
  _save(figure, path)


def plan_grid(windows: Sequence[PlannedWindow], num_frames: int) -> np.ndarray:
  """Return the role of each frame of the video in each window, uint8 [windows num_frames].

  SEEN: given to the window. Otherwise MADE: written by it, MADE_FROM_LOW if also given at low resolution; DISCARDED:
  generated but not written; ABSENT: not in the window. Frames past the end of the video are ignored.

  Raises:
    ValueError: there are no windows or frames, tuples differ in length, or positions do not increase from 0.

  >>> from types import SimpleNamespace
  >>> window = SimpleNamespace(frames=(0, 1), seen=(True, False), kept=(False, True), low_seen=(False, False))
  >>> plan_grid([window], 3).tolist() == [[SEEN, MADE, ABSENT]]
  True
  """
  if not len(windows) or num_frames < 1:
    raise ValueError(f'plan_grid needs at least one window and one frame, not {len(windows)} and {num_frames}.')
  grid = np.full((len(windows), num_frames), ABSENT, np.uint8)
  for number, window in enumerate(windows):
    frames = np.array(window.frames, int)
    seen, kept, low = (np.array(which, bool) for which in (window.seen, window.kept, window.low_seen))
    if not seen.shape == kept.shape == low.shape == frames.shape:
      raise ValueError(f'plan_grid: frames, seen, kept and low_seen of window {number} differ in length: {window}.')
    if (np.diff(frames, prepend=-1) < 1).any():
      raise ValueError(f'plan_grid: the frames of window {number} do not increase from 0: {window.frames}.')
    codes = np.select([seen, kept & low, kept], [SEEN, MADE_FROM_LOW, MADE], DISCARDED)
    inside = frames < num_frames
    grid[number, frames[inside]] = codes[inside]
  return grid


def _figure(width: float, height: float) -> Any:
  """An empty figure, sizes in inches, drawn by Agg without a display."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), dpi=DPI, layout='constrained')
  FigureCanvasAgg(figure)
  return figure


def _plain(name: str) -> str:
  """A name that matplotlib prints verbatim: without formulas and the leading underscore that would hide it."""
  return (' ' if name.startswith('_') else '') + name.replace('$', r'\$')


def _save(figure: Any, path: str | os.PathLike) -> None:
  """Render, then write, so that a figure that cannot be rendered leaves an existing file unchanged."""
  picture = io.BytesIO()
  figure.savefig(picture, format='png', dpi=DPI, metadata={'Software': None})
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(picture.getvalue())
