"""The papers' claims: statistics in closed form, scores by hand, and the command at toy size."""

from __future__ import annotations

import json
import math
import runpy

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.benchmarks import paper_claims

TINY = """
import runpy
from pathlib import Path


def get_config():
  config = runpy.run_path({path!r})['get_config']()
  config.model.update(base_channels=8, norm_groups=4, head_width=8, embedding_width=16, channel_multipliers=(1,))
  config.model.update(attention_resolutions=(8,))
  config.training.update(num_steps=2, log_every=2, checkpoint_every=2, preview_every=0, heldout_every=0, warmup_steps=1)
  config.sampling.update(num_steps=2)
  return config
"""


def test_the_interval_is_students():
  interval = paper_claims.paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
  assert interval == {'mean': 2.0, 'half_width': pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)}


def test_pairing_removes_what_the_seeds_share():
  shared = np.array([0.0, 5.0, -3.0, 8.0])
  assert paper_claims.paired(shared + 1, shared) == {'mean': 1.0, 'half_width': 0.0}


def test_the_true_future_keeps_its_digit(config):
  videos, digits = paper_claims.heldout_clips(config, 12, 32)
  kept = paper_claims.score(videos, digits, [4, 8], given=4)
  other = paper_claims.score(videos, (digits + 1) % 10, [4, 8], given=4)
  assert kept['identity'] > 0.9 and other['identity'] < 0.1
  spliced = np.concatenate([videos[:, :11], np.roll(videos, 1, axis=0)[:, 11:]], axis=1)
  smooth, seam = (paper_claims.score(one, digits, [4, 11], given=4)['seam_score'] for one in (videos, spliced))
  assert seam > smooth + 1, 'digits move a pixel every second frame, not at odd ones'


def test_clips_are_those_of_no_training_and_of_the_seed(config):
  first, _ = paper_claims.heldout_clips(config, 3, 16)
  trained = [clip.video for clip in data.examples(config.data, 'train', seed=0, count=3, num_frames=16)]
  assert not np.array_equal(first, data.to_float(np.stack(trained)))
  config.seed = 1
  assert not np.array_equal(first, paper_claims.heldout_clips(config, 3, 16)[0])


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
  names = ('replacement', 'reconstruction, w=1')
  monkeypatch.setattr(paper_claims, 'METHODS', {name: paper_claims.METHODS[name] for name in names})
  monkeypatch.setattr(paper_claims, 'PAIRS', ((names[1], names[0]),))
  tiny = tmp_path / 'tiny.py'
  tiny.write_text(TINY.format(path=str(paper_claims.CONFIG)))
  small = ['--seeds=2', '--videos=2', '--num_frames=12', '--num_steps=2']
  command = [f'--out={tmp_path / "out"}', f'--config={tiny}', *small]
  paper_claims.main(command)
  printed = capsys.readouterr().out
  report = json.loads((tmp_path / 'out' / 'claims.json').read_text())
  assert [len(report['seeds'][name]) for name in names] == [2, 2]
  for one in report['seeds'][names[1]]:
    assert one['error_of_frame'][:4] == [0.0] * 4, 'given frames are the true ones'
    assert one['prediction_error'] == pytest.approx(np.mean(one['error_of_frame'][4:8]))
    assert one['extension_error'] == pytest.approx(np.mean(one['error_of_frame'][8:]))
  errors = [[one['prediction_error'] for one in report['seeds'][name]] for name in names]
  difference = report['differences'][0]['prediction_error']
  assert difference['mean'] == pytest.approx(np.mean(errors[1]) - np.mean(errors[0]))
  assert f'({difference["mean"]:+.3f} ± {difference["half_width"]:.3f})' in printed
  assert (tmp_path / 'out' / 'claims.png').read_bytes().startswith(b'\x89PNG')

  def fail(*args, **kwargs):
    raise AssertionError('done before')

  monkeypatch.setattr(paper_claims, 'measure', fail)
  monkeypatch.setattr(paper_claims.jobs, 'train', fail)
  paper_claims.main(command)
  assert capsys.readouterr().out == printed
  with pytest.raises(AssertionError, match='done before'):
    paper_claims.main([*command, '--num_steps=3'])


def test_one_seed_has_no_interval(capsys):
  with pytest.raises(SystemExit):
    paper_claims.main(['--out=nowhere', '--seeds=1'])
  assert '--seeds=1: an interval needs two or more.' in capsys.readouterr().err


@pytest.fixture
def config():
  return runpy.run_path(str(paper_claims.CONFIG))['get_config']()
