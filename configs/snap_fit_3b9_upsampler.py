"""Text to video, second stage, 16x36x64 to 16x288x512: the FIT upsampler (Snap Video, Tables 8 and 9).

    python -m vdm_jax.main --config=configs/snap_fit_3b9_upsampler.py --workdir=runs/snap_fit_3b9_upsampler

Paper      with its first stage, zero-shot UCF101: FVD 200.2, FID 28.1, IS 38.89 at 512x288 (Table 4)
Parameters 3,911,269,424 (3,909,956,656 without the token of the low-resolution input's noise level)
Work       28.5 TFLOP per evaluation of a video, 111 per training video with self-conditioning
Hardware   the paper's: A100s, number not stated
Data       as in snap_fit_500m.py, at 288x512 or more
Start      the weights of runs/snap_fit_3b9: latents go to the groups at their place, axial positions start from the
           means of its table, the new rows of the patch projection are zero, and all others are copied
Noise      the network is told the log-SNR, as in snap_fit_3b9.py: a given sigma of x / sigma_in + sigma eps
           corresponds to 8 times the sigma of the first stage
Not stated low-resolution input: the clip resized as for the first stage (bicubic), bilinearly upsampled; its noise:
           Imagen's augmentation, with a uniform level in training and 0.1 in sampling (searched by
           `--protocol=snap-internal-288x512 --sweep=augmentation`, off the paper's test sets); share of images in a
           batch: half; the rest as in snap_fit_500m.py

Positions are axial: with one vector per token there would be 4,060,730,416 parameters, not the paper's 3.9B.
"""

from ml_collections import ConfigDict

from vdm_jax.configs import snap_fit_3b9


def get_config() -> ConfigDict:
  config = snap_fit_3b9.get_config()
  config.data.update(batch_size=320, height=288, width=512, pad_rows=0)
  config.model.update(
    upsampling=8,
    downsampling='bicubic',
    sigma_in=32.0,
    group_size=(16, 18, 16),
    positions='axial',
    scalars=('frame_interval', 'resolution', 'augmentation_logsnr'),
  )
  config.training.update(num_steps=370_000, first_stage='runs/snap_fit_3b9')
  config.sampling.update(num_steps=40)
  return config
