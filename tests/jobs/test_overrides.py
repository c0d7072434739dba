"""Overrides of an experiment on the command line: errors name the key, the value and the type."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.tiny_runs import REPOSITORY

INVALID = {
  '--config.model.latent_widht=3': ['config.model.latent_widht ', 'did you mean config.model.latent_width?'],
  '--config.model.latent_width=abc': ['--config.model.latent_width=abc ', ' int.'],
  '--config.model.network=unet3d --config.model.base_channels=8': ["model.network='unet3d'", "default('unet3d')"],
}


@pytest.mark.parametrize('overrides', INVALID)
def test_an_invalid_override_of_another_network_than_the_default(overrides):
  arguments = ['--mode=doctor', '--config=configs/digits_fit.py', *overrides.split()]
  command = [sys.executable, '-m', 'vdm_jax.main', *arguments]
  done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
  output = done.stdout + done.stderr
  assert done.returncode == 2, output
  assert 'Traceback' not in output and all(part in output for part in INVALID[overrides]), output
