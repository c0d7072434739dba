"""The ablations of Snap Video: the rows of its Tables 2 and 3, and the design claims of its section 3.4.

    python -m vdm_jax.main --config=configs/snap_ablation.py:ii --workdir=runs/snap_ablation_ii
    python -m vdm_jax.main --config=configs/snap_ablation.py --workdir=runs/snap_ablation

Table 2        `unet_85m`, `unet_284m`, `fit_500m`, `fit_3b9`: the configurations with these names
Table 3        `i` (EDM), `ii` (input scaling, EDM's sigma_data), `iii` (sigma_in 2), `ours` (the default). The printed
               table swaps the labels (iii) and (iv); these follow the text. `iv`: images are single frames with
               sigma_in 1, beside videos with 4. A lone frame cannot fill FIT's groups of 16 frames, and the paper does
               not say what does: this row is of the U-Net of 85M, as many appended images as videos, each with a noise
               level of its own
Section 3.4    `patch_2_frames`, `group_8_frames`, `latents_256`, `local_layers` (instead of feed-forwards after cross
               attention): one claim each; `vanilla_fit`: all of them, with the condition read after the patches
Parameters     495,040,048 in all rows of Table 3 but `iv`
Work, hardware, data and what the paper does not specify: as in snap_fit_500m.py, which all rows except those of Table 2
modify.
"""

from ml_collections import ConfigDict

from vdm_jax.configs import snap_fit_3b9, snap_fit_500m, snap_unet_85m, snap_unet_284m
from vdm_jax.names import choose

TABLE_2 = {'unet_85m': snap_unet_85m, 'unet_284m': snap_unet_284m, 'fit_500m': snap_fit_500m, 'fit_3b9': snap_fit_3b9}
LOCAL = {'num_local_layers': 2, 'cross_feed_forward': False}
CHANGES = {
  'i': {'parameterization': 'edm', 'sigma_data': 0.5, 'sigma_in': 1.0},
  'ii': {'sigma_data': 0.5},
  'iii': {'sigma_in': 2.0},
  'ours': {},
  'patch_2_frames': {'patch_size': (2, 4, 4), 'group_size': (8, 5, 4)},
  'group_8_frames': {'group_size': (8, 5, 4)},
  'latents_256': {'num_latents': 256},
  'local_layers': LOCAL,
  'vanilla_fit': LOCAL
  | {
    'patch_size': (2, 4, 4),
    'group_size': (4, 5, 4),
    'num_latents': 256,
    'positions': 'group',
    'condition_read': 'after',
  },
}


def get_config(row: str = 'ours') -> ConfigDict:
  choose('variant of snap_ablation', row, (*TABLE_2, *CHANGES, 'iv'))
  if row == 'iv':
    config = snap_unet_85m.get_config()
    config.data.update(image_rate=0.0, num_images=1, batch_size=config.data.batch_size // 2)
    config.model.update(frame_logsnr='images', image_sigma_in=1.0)
    return config
  config = TABLE_2.get(row, snap_fit_500m).get_config()
  config.model.update(CHANGES.get(row, {}))
  return config
