"""Text to video, first stage, 16x36x64: the FIT of 3.9B parameters (Snap Video, Tables 8 and 9).

    python -m vdm_jax.main --config=configs/snap_fit_3b9.py --workdir=runs/snap_fit_3b9 --config.data.path=DIR

Paper      FID 2.51, FVD 12.31, CLIPSIM 0.2579 on the authors' data; 526 ms per training video on an A100 (Table 2)
Parameters 3,912,307,760
Work       6.43 TFLOP per evaluation of a video, 25.1 per training video with self-conditioning
Hardware   the paper's: A100s, number not stated
Mesh       parameters are sharded over all devices, which works on any number of them; on 128 v4 chips,
           --config.mesh.data=-1 --config.mesh.fsdp=16 communicates less (compiled with
           --config.training.accumulation_steps=4: collectives take 13 % of the time of the arithmetic instead of 28 %,
           with 20.5 GiB per chip instead of 15.1)
Noise      the network is told the log-SNR, where the paper tells it ln(sigma) / 4 (`model.noise_input`): the second
           stage starts from these weights with 8 times the sigma_in, and only the log-SNR means the same in both
Data, and what the paper does not state: as in snap_fit_500m.py, from which this differs otherwise in width alone
"""

from ml_collections import ConfigDict

from vdm_jax.configs import snap_fit_500m


def get_config() -> ConfigDict:
  config = snap_fit_500m.get_config()
  config.model.update(
    noise_input='logsnr',
    patch_width=1024,
    latent_width=3072,
    condition_width=1024,
    num_latents=768,
    patch_head_width=64,
    latent_head_width=128,
    remat='block',
  )
  config.mesh.update(data=1, fsdp=-1)  # 78 GB of training state do not fit one device
  return config
