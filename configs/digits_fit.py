"""Captioned handwritten digits, 8x16x16, by FIT: Snap Video's first stage on two CPU cores, nothing to download.

    python -m vdm_jax.main --config=configs/digits_fit.py --workdir=runs/digits_fit

FIT with 2,798,128 parameters, trained as in the paper: input-scaled process, snap parameterization, latent
self-conditioning, LAMB, and one example in eight an image, as a video of infinite frame rate. The README gives its
scores. It differs from the paper in sigma_in 2 and a higher mean of the log-normal, since the content of small frames
is decided at high noise levels, and in a larger initialization of positions and latents, since a short run cannot grow
them.
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('fit')
  config.data.update(
    name='digits',
    batch_size=8,
    image_rate=0.125,
    num_frames=8,
    height=16,
    width=16,
    channels=1,
    text='words',
    text_length=4,
  )
  config.model.update(
    process='input_scaled',
    sigma_in=2.0,
    parameterization='snap',
    logsnr='lognormal',
    lognormal_mean=0.0,
    patch_size=(1, 4, 4),
    group_size=(8, 2, 2),
    patch_width=96,
    latent_width=128,
    condition_width=96,
    num_latents=32,
    num_blocks=3,
    num_global_layers=2,
    patch_head_width=24,
    latent_head_width=32,
    init_std=1.0,
  )
  config.training.update(
    num_steps=8_000,
    log_every=100,
    checkpoint_every=1_000,
    preview_every=4_000,
    heldout_every=1_000,
    optimizer='lamb',
    learning_rate=5e-3,
    schedule='cosine',
    warmup_steps=200,
    weight_decay=0.01,
    ema_half_life=200.0,
    ema_warmup=True,
    self_condition_rate=0.9,
  )
  config.sampling.update(num_steps=24, grid='karras', step='heun', threshold='clip', guidance_weight=1.0)
  return config
