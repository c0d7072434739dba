"""Text to video, second stage, 16x36x64 to 16x288x512: the FIT upsampler (Snap Video, Tables 8 and 9).

    python -m vdm_jax.main --config=configs/snap_fit_3b9_upsampler.py --workdir=runs/snap_fit_3b9_upsampler

Paper      with its first stage, zero-shot UCF101: FVD 200.2, FID 28.1, IS 38.89 at 512x288 (Table 4)
Parameters 3,911,269,424 (3,909,956,656 without the token of the low-resolution input's noise level)
Work       28.5 TFLOP per evaluation of a video, 111 per training video with self-conditioning
Hardware   the paper's: A100s, their number not given
Data       as in snap_fit_500m.py, at 288x512 and more
Start      the weights of runs/snap_fit_3b9: all but positions and the patch projection's new rows carry over
Noise      the network sees log-SNR: a sigma of x / sigma_in + sigma eps reads as 8 times that of the first stage
Not given  what the low resolution is: the clip's own area means, bilinearly upsampled; what its noise is: Imagen's
           augmentation, the level uniform in training and 0.1 in sampling (`--sweep=augmentation` searches it); images'
           share of a batch: half; the rest as in snap_fit_500m.py

Positions are axial: one vector per token would be 4,060,730,416 parameters, which is not printed as 3.9B.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = runpy.run_path(str(pathlib.Path(__file__).with_name('snap_fit_3b9.py')))['get_config']()
  config.data.update(batch_size=320, height=288, width=512, pad_rows=0)
  config.model.update(
    upsampling=8,
    sigma_in=32.0,
    group_size=(16, 18, 16),
    positions='axial',
    scalars=('frame_interval', 'resolution', 'augmentation_logsnr'),
  )
  config.training.update(num_steps=370_000, first_stage='runs/snap_fit_3b9')
  config.sampling.update(num_steps=40, guidance_start=10)
  return config
