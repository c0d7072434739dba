"""A diverging run ends by itself, and `--mode=replay` repeats its last step."""

from __future__ import annotations

import json

import pytest
from test_main import vdm

TOY = {
  'model.base_channels': 8,
  'model.channel_multipliers': '(1,)',
  'model.attention_resolutions': '(8,)',
  'model.head_width': 4,
  'model.norm_groups': 4,
  'model.embedding_width': 16,
  'model.embedding_layers': 1,
  'training.num_steps': 40,
  'training.warmup_steps': 0,
  'training.preview_every': 0,
  'training.heldout_every': 0,
  'training.checkpoint_every': 5,
  'training.learning_rate': 1e30,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_last_step_of_a_diverged_run_is_repeated_bit_for_bit(tmp_path):
  options = [f'--config.{key}={value}' for key, value in TOY.items()]
  done = vdm('--config=configs/digits.py', f'--workdir={tmp_path}', *options, patience=1000)
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  (folder,) = (tmp_path / 'nonfinite').iterdir()
  assert f'of the 10 steps up to step {int(folder.name[5:])} ' in done.stderr
  again = vdm('--mode=replay', f'--workdir={folder}')
  assert again.returncode == 0, again.stderr
  said = again.stdout.splitlines()
  assert said[0].endswith(', the same bits as in the run')
  assert said[1] == f'not finite first: {json.loads((folder / "report.json").read_text())["found"][0]}'
  other = vdm('--mode=replay', f'--workdir={folder}', '--seed=5')
  assert other.returncode == 1 and ', other bits than in the run' in other.stdout
  refused = vdm('--mode=replay', f'--workdir={tmp_path}')
  assert refused.returncode == 2 and f'error: {tmp_path} has no batch.safetensors' in refused.stderr
