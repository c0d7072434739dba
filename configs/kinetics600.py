"""Kinetics-600, prediction of 11 frames from 5, 16x64x64 (Video Diffusion Models, section 4.2 and appendix A.3).

    python -m vdm_jax.main --config=configs/kinetics600.py --workdir=runs/kinetics600 --config.data.path=DIR

Paper      FVD 18.6 ancestral, 16.2 with Langevin correction; IS 15.39, 15.64 (Table 3)
Parameters 1,238,624,259
Work       35.3 TFLOP per training video (7.84 forward, video alone), 1,398 H200-hours in total at 395 TFLOP/s
Hardware   the paper's: 256 TPU v4 chips
Data       a folder of clips, as train/CLASS/*.mp4, val/CLASS/*.mp4 and test/CLASS/*.mp4: training holds out val and
           test, and the protocol vdm-kinetics600-50k measures against 50,000 of the about 60,000 clips of test
Not stated learning-rate schedule, warm-up, gradient clipping: constant, 1,000 steps, norm 1
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('unet3d')
  config.data.update(
    name='folder', path='data/kinetics600', batch_size=256, num_frames=16, height=64, width=64, num_images=8
  )
  config.model.update(
    parameterization='v',
    base_channels=256,
    channel_multipliers=(1, 2, 4, 8),
    num_blocks=2,
    attention_resolutions=(8, 16, 32),
    head_width=64,
    embedding_width=1024,
    embedding_layers=2,
    dropout=0.1,
    remat=True,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=220_000, learning_rate=2e-4, beta1=0.9, beta2=0.99, weight_decay=0.0, ema_decay=0.9999
  )
  config.sampling.update(num_steps=128, gamma=0.0, langevin_delta=0.1, reconstruction_weight=9.0)
  return config
