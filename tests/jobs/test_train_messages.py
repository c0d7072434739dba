"""What training prints before its first step."""

from __future__ import annotations

import pytest
from helpers.clip_files import make_clip
from helpers.tiny_runs import TINY

from vdm_jax import configuration, jobs
from vdm_jax.video import write_gif


@pytest.mark.slow
def test_training_tells_how_many_clips_cannot_be_used(tmp_path, capsys):
  for i in range(12):
    write_gif(tmp_path / 'clips' / f'{i:02}.gif', make_clip(i, num_frames=8, width=16), fps=8)
  for name in ('03.gif', '07.gif'):
    (tmp_path / 'clips' / name).write_text('no video')
  config = configuration.default('unet3d')
  config.update_from_flattened_dict(
    TINY
    | {'data.name': 'folder', 'data.path': str(tmp_path / 'clips'), 'data.max_bad_share': 0.2, 'data.batch_size': 8}
    | {'training.num_steps': 1, 'training.warmup_steps': 0, 'sampling.num_steps': 2}
  )
  config.data.digits.update(bounce=False, clip_frames=0)
  assert jobs.train(config, str(tmp_path / 'run')) == 0
  lines = capsys.readouterr().err.splitlines()
  assert f'2 clips cannot be used; see {tmp_path}/run/quarantine.jsonl' in lines
  assert lines.index('compiling the training step...') > 0
