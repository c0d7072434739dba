"""The benchmark of the input pipeline: both sides do the same work, and the ratio is that of their rates."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.benchmarks import input as benchmark
from vdm_jax.video import read_video, transforms


@pytest.fixture
def folder(tmp_path):
  benchmark.write_clips(tmp_path, 3, size=(32, 48), num_frames=20, crf=23)
  return tmp_path


def test_clips_have_the_given_size_and_differ(folder):
  videos = [read_video(file) for file in sorted(folder.iterdir())]
  assert [video.shape for video in videos] == [(20, 32, 48, 3)] * 3
  assert not np.array_equal(videos[0], videos[1])
  assert np.abs(np.diff(videos[0].astype(int), axis=0)).mean() > 1, 'they move'


def test_better_quality_takes_more_bits(tmp_path, folder):
  (tmp_path / 'better').mkdir()
  benchmark.write_clips(tmp_path / 'better', 3, size=(32, 48), num_frames=20, crf=4)
  usual, better = (benchmark.bits_per_pixel(sorted(path.glob('*.mp4'))) for path in (folder, tmp_path / 'better'))
  assert usual == pytest.approx(sum(file.stat().st_size for file in folder.glob('*.mp4')) * 8 / (3 * 20 * 32 * 48))
  assert better > 2 * usual


def test_windows_of_the_pipeline_are_recorded(folder):
  config = benchmark.data_section(folder, batch_size=2, num_frames=7, size=(16, 16))
  with benchmark.recorded_windows() as windows:
    stream = data.build(config, None, seed=0)
    batch = next(stream)
    stream.close()
  first = [read_video(file, start=start, num_frames=7) for file, start in windows]
  shown = [transforms.to_float(transforms.resize_and_crop(video, 16, 16)) for video in first]
  assert all(any(np.array_equal(x, video) for video in shown) for x in batch.x)
  count = len(windows)
  read_video(windows[0][0])
  assert len(windows) == count, 'nothing is recorded afterwards'


def test_the_bare_loop_decodes_whole_windows(folder):
  files = sorted(folder.iterdir())
  windows = [(file, start) for file in files for start in (0, 3, 13)]
  assert benchmark.bare_loop(windows, 7) == benchmark.bare_loop(windows, 7, (16, 16)) == 63
  with pytest.raises(ValueError, match=f'^{files[0]}: .*constant frame rate'):
    benchmark.bare_loop([(files[0], 14)], 7)


def test_the_command_reports_its_own_ratio(folder, tmp_path, capsys):
  command = [f'--path={folder}', '--num_frames=4', '--size', '16', '16', '--batch=2', '--batches=3', '--rounds=1']
  benchmark.main([*command, f'--out={tmp_path / "report.json"}'])
  report = json.loads(capsys.readouterr().out)
  assert json.loads((tmp_path / 'report.json').read_text()) == report
  rates = {name: report[f'{name}_clips_per_second_and_core'] for name in ('pipeline', 'bare_loop', 'resizing_loop')}
  assert min(rates.values()) > 0
  for loop in ('bare_loop', 'resizing_loop'):
    assert report[f'pipeline_over_{loop}'] == pytest.approx(rates['pipeline'] / rates[loop])
