"""BAIR robot pushing, prediction of 15 frames from 1, 16x64x64 (Video Diffusion Models, section 4.2 and appendix A.2).

    python -m vdm_jax.main --config=configs/bair.py --workdir=runs/bair --config.data.path=DIR

Paper      FVD 68.19 ancestral, 66.92 with Langevin correction (Table 2)
Parameters 158,760,195
Work       7.76 TFLOP per training video (1.72 forward, video alone), 461 H200-hours in total at 395 TFLOP/s
Hardware   the paper's: 128 TPU v4 chips
Data       a folder of clips, or the TFDS dataset: --config.data.name=tfds --config.data.frame_rate=N
           --config.data.path=DIR/bair_robot_pushing_small/2.0.0
Not stated learning-rate schedule, warm-up, gradient clipping: constant, 1,000 steps, norm 1
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('unet3d')
  config.data.update(
    name='folder', path='data/bair', batch_size=128, num_frames=16, height=64, width=64, num_images=8, flip=True
  )
  config.model.update(
    parameterization='v',
    base_channels=128,
    channel_multipliers=(1, 2, 3, 4),
    num_blocks=3,
    attention_resolutions=(8, 16, 32),
    head_width=64,
    embedding_width=1024,
    embedding_layers=2,
    dropout=0.1,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=660_000, learning_rate=2e-4, beta1=0.9, beta2=0.999, weight_decay=0.01, ema_decay=0.999
  )
  # 256 Langevin corrections in addition to the 256 steps: as many evaluations as the ancestral sampler with 512 steps.
  config.sampling.update(num_steps=256, gamma=0.0, langevin_delta=0.1, reconstruction_weight=50.0)
  return config
