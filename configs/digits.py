"""Captioned handwritten digits, 8x16x16: the README's model. Minutes on two CPU cores, nothing to download.

    python -m vdm_jax.main --config=configs/digits.py --workdir=runs/digits

A small factorized U-Net (995,396 parameters) with v-prediction and joint image-video training, on 2x2 patches, so that
its levels are 8x8 and 4x4 and every block has spatial and temporal attention. The README gives its scores.
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('unet3d')

  config.data.update(
    name='digits',
    batch_size=4,
    num_frames=8,
    height=16,
    width=16,
    channels=1,
    num_images=8,
    text='words',
    text_length=4,
  )
  config.model.update(
    parameterization='v',
    logsnr_shift=-2.0,  # the content of small frames is decided at high noise levels
    base_channels=32,
    channel_multipliers=(1, 2),
    num_blocks=1,
    attention_resolutions=(4, 8),
    head_width=16,
    embedding_width=128,
    embedding_layers=2,
    norm_groups=8,
    patch_size=2,
    position_embedding=True,
  )
  config.training.update(
    num_steps=2_000,
    log_every=50,
    checkpoint_every=500,
    preview_every=1_000,
    heldout_every=500,
    learning_rate=2e-3,
    schedule='cosine',
    warmup_steps=100,
    ema_decay=0.995,
    ema_warmup=True,
  )
  config.sampling.update(num_steps=24, guidance_weight=1.0)
  return config
