"""The benchmark of the input pipeline: both sides do the same work, and the ratio is theirs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.benchmarks import input as benchmark


@pytest.fixture
def folder(tmp_path):
  benchmark.synthesise(tmp_path, 3, size=(32, 48), num_frames=20)
  return tmp_path


def test_clips_are_those_asked_for_and_differ(folder):
  videos = [data.read_video(file) for file in sorted(folder.iterdir())]
  assert [video.shape for video in videos] == [(20, 32, 48, 3)] * 3
  assert not np.array_equal(videos[0], videos[1])
  assert np.abs(np.diff(videos[0].astype(int), axis=0)).mean() > 1, 'they move'


def test_the_bare_loop_decodes_whole_windows(folder):
  files = sorted(folder.iterdir())
  assert benchmark.bare_loop(files, np.random.default_rng(0), 12, 7) == 84
  assert benchmark.bare_loop(files, np.random.default_rng(0), 3, 20) == 60, 'the only window there is'


def test_the_command_reports_its_own_ratio(folder, tmp_path, capsys):
  command = [f'--path={folder}', '--num_frames=4', '--size', '16', '16', '--batch=2', '--batches=3', '--rounds=1']
  benchmark.main([*command, f'--out={tmp_path / "report.json"}'])
  report = json.loads(capsys.readouterr().out)
  assert json.loads((tmp_path / 'report.json').read_text()) == report
  ours, theirs = (report[f'{name}_clips_per_second_and_core'] for name in ('pipeline', 'bare_loop'))
  assert ours > 0 and report['pipeline_over_bare_loop'] == pytest.approx(ours / theirs)
