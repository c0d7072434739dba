"""UCF101, unconditional, 16x64x64 (Video Diffusion Models, section 4.1 and appendix A.1).

    python -m vdm_jax.main --config=configs/ucf101.py --workdir=runs/ucf101 --config.data.path=DIR

Paper      FID 295 +- 3, IS 57 +- 0.62 by C3D, 10,000 samples (Table 1)
Parameters 1,240,723,459
Work       35.3 TFLOP per training video (7.84 forward, video alone), 191 H200-hours in total at 395 TFLOP/s
Hardware   the paper's: 128 TPU v4 chips
Data       all 13,320 clips, train and test, which makes held-out losses void: a folder of them, or the TFDS dataset:
           --config.data.name=tfds --config.data.path=DIR/ucf101/ucf101_1/2.0.0 --config.data.frame_rate=25
Resizing   the paper takes the TFDS loader "without further processing", whose default configuration, ucf101_1_256,
           squashes the frames of 240x320 to squares: so does data.resize=squash, from either of both configurations.
           --config.data.resize=cover takes the center square instead
Not stated learning-rate schedule, warm-up, gradient clipping: constant, 1,000 steps, norm 1
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('unet3d')
  config.data.update(
    name='folder',
    path='data/ucf101',
    batch_size=128,
    num_frames=16,
    height=64,
    width=64,
    num_images=8,
    train_on_all=True,
    resize='squash',
  )
  config.model.update(
    parameterization='eps',
    base_channels=256,
    channel_multipliers=(1, 2, 4, 8),
    num_blocks=2,
    attention_resolutions=(8, 16, 32),
    head_width=64,
    embedding_width=1024,
    embedding_layers=4,
    dropout=0.1,
    remat=True,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=60_000, learning_rate=3e-4, beta1=0.9, beta2=0.99, weight_decay=0.0, ema_decay=0.9999
  )
  config.sampling.update(num_steps=256, gamma=0.1)
  return config
