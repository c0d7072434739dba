"""Text to video, 16x36x64: the U-Net baseline of 284M parameters (Snap Video, Tables 7 and 9).

    python -m vdm_jax.main --config=configs/snap_unet_284m.py --workdir=runs/snap_unet_284m --config.data.path=DIR

Paper      FID 4.90, FVD 23.76, CLIPSIM 0.2391 on the authors' data; 230.3 ms per training video on an A100 (Table 2)
Parameters 281,147,651 (281,084,163 without the relative positions of temporal attention)
Work       1.86 TFLOP per evaluation of a video, 5.59 per training video
Hardware   the paper's: A100s, number not stated
Data, and what the paper does not state: as in snap_unet_85m.py, from which this differs only in width
"""

from ml_collections import ConfigDict

from vdm_jax.configs import snap_unet_85m


def get_config() -> ConfigDict:
  config = snap_unet_85m.get_config()
  config.model.update(base_channels=192, channel_multipliers=(1, 2, 3, 4))
  return config
