"""Bouncing digits without text, 8x16x16 windows of 32-frame clips: a model for continuing videos.

    python -m vdm_jax.main --config=configs/digits_long.py --workdir=runs/digits_long
    python -m vdm_jax.main --mode=sample --workdir=runs/digits_long --num_frames=32 --out=out

The network of configs/digits.py without captions (926,532 parameters). The digit of a clip crosses the frame and
returns within 32 frames, of which the model is trained on eight at a time, so that the continuation of a video can be
compared with its true future. The README gives its scores.
"""

from ml_collections import ConfigDict

from vdm_jax.configs import digits


def get_config() -> ConfigDict:
  config = digits.get_config()
  # Videos only: with the same number of frames per step, half of them images, the digit was kept less often (0.41
  # instead of 0.55, one seed).
  config.data.update(text='none', num_images=0, batch_size=8, digits={'bounce': True, 'clip_frames': 32})
  config.training.update(num_steps=3_000)
  config.sampling.update(guidance_weight=0.0, reconstruction_weight=10.0)
  return config
