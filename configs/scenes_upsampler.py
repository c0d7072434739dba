"""The second stage of the scenes' cascade, 16x16x16 to 16x64x64 RGB.

    python -m vdm_jax.main --config=configs/scenes_upsampler.py --workdir=runs/scenes_upsampler
    python -m vdm_jax.main --mode=evaluate --workdir=runs/scenes_upsampler --protocol=scenes

It starts from the weights of runs/scenes (configs/scenes.py), on patches of 4x4 pixels where that has 2x2, or of the
package's with --config.training.first_stage=pretrained:scenes. Sampling it samples both stages. 3,539,472 parameters.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = runpy.run_path(str(pathlib.Path(__file__).with_name('scenes.py')))['get_config']()
  config.data.update(height=64, width=64, num_images=0)
  config.model.update(
    upsampling=4,
    scalars=('augmentation_logsnr',),
    patch_size=4,
    attention_resolutions=(8, 16),
    parameterization='x',  # with v the 48 noisy values of a patch would have to pass through its 64 channels
    logsnr_shift=0.0,  # what is left to learn stands at low noise
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
  # The small picture says nearly all: more evaluations and guidance add nothing.
  config.sampling.update(num_steps=4, guidance_weight=0.0, noise_aug_level=0.0)
  return config
