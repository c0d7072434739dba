"""Second stage of the scenes cascade, 16x16x16 to 16x64x64 RGB.

    python -m vdm_jax.main --config=configs/scenes_upsampler.py --workdir=runs/scenes_upsampler
    python -m vdm_jax.main --mode=evaluate --workdir=runs/scenes_upsampler --protocol=scenes

Initialized from the weights of runs/scenes (configs/scenes.py), or of the shipped model with
--config.training.first_stage=pretrained:scenes, on patches of 4x4 pixels instead of 2x2. Sampling it samples both
stages. 3,539,472 parameters.
"""

from ml_collections import ConfigDict

from vdm_jax.configs import scenes


def get_config() -> ConfigDict:
  config = scenes.get_config()
  config.data.update(height=64, width=64, num_images=0)
  config.model.update(
    upsampling=4,
    scalars=('augmentation_logsnr',),
    patch_size=4,
    attention_resolutions=(8, 16),
    parameterization='x',  # v would have to carry the 48 noisy values of a patch through its 64 channels
    logsnr_shift=0.0,  # details are decided at low noise levels
  )
  config.training.update(
    num_steps=500,
    first_stage='runs/scenes',
    accept_mismatch=True,
    log_every=20,
    checkpoint_every=250,
    preview_every=250,
    heldout_every=250,
    warmup_steps=50,
    ema_decay=0.99,
  )
  # The low-resolution input determines nearly everything: more evaluations and guidance do not help.
  config.sampling.update(num_steps=4, guidance_weight=0.0, noise_aug_level=0.0)
  return config
