"""Second stage of the digits cascade, 8x16x16 to 8x32x32: Snap Video's upsampler on two CPU cores.

    python -m vdm_jax.main --config=configs/digits_fit_upsampler.py --workdir=runs/digits_fit_upsampler
    python -m vdm_jax.main --mode=sample --workdir=runs/digits_fit_upsampler --prompt="a 3 moving left" --out=out

Initialized from the weights of runs/digits_fit (configs/digits_fit.py); sampling it samples both stages. 2,848,240
parameters. As in the paper, sigma_in grows with the resolution, and the noise level of the low-resolution input is
drawn per example; `--mode=evaluate --protocol=digits --sweep=augmentation` searches the best level for sampling.
"""

from ml_collections import ConfigDict

from vdm_jax.configs import digits_fit


def get_config() -> ConfigDict:
  config = digits_fit.get_config()
  config.data.update(height=32, width=32)
  config.model.update(
    upsampling=2,
    sigma_in=4.0,
    lognormal_mean=-1.2,  # the paper's: details are decided at low noise levels
    group_size=(8, 4, 4),
    scalars=('frame_interval', 'resolution', 'augmentation_logsnr'),
  )
  config.training.update(num_steps=1_500, first_stage='runs/digits_fit')
  config.sampling.update(num_steps=12, noise_aug_level=0.0)  # found by --sweep=augmentation
  return config
