"""x"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('fit')
  config.data.update(
    name='digits', batch_size=16, num_frames=8, height=16, width=16, channels=1, text='words', text_length=4,
    still_rate=0.25,
  )  # fmt: skip
  config.model.update(
    process='input_scaled',
    sigma_in=2.0,
    parameterization='snap',
    logsnr='lognormal',
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
  )
  config.training.update(
    num_steps=6_000,
    log_every=100,
    checkpoint_every=1_000,
    preview_every=0,
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
  config.sampling.update(num_steps=24, grid='karras', step='heun', threshold='dynamic', guidance_weight=1.0)
  return config
