"""Bouncing digits without text, 8x16x16 windows of 32-frame clips: the model to continue videos with.

    python -m vdm_jax.main --config=configs/digits_long.py --workdir=runs/digits_long
    python -m vdm_jax.main --mode=sample --workdir=runs/digits_long --num_frames=32 --out=out

The network is that of `digits.py` without captions (926,532 parameters). A clip's digit crosses the picture and comes
back in 32 frames, and the model sees eight of them at a time, so that a longer video has a true future to be compared
with. The README says what it reaches.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = runpy.run_path(str(Path(__file__).with_name('digits.py')))['get_config']()
  # Videos alone: of as many frames a step, half of them still images, it kept the digit worse (0.41 to 0.55, one seed).
  config.data.update(text='none', num_images=0, batch_size=8, digits={'bounce': True, 'clip_frames': 32})
  config.training.update(num_steps=3_000)
  config.sampling.update(guidance_weight=0.0, reconstruction_weight=10.0)
  return config
