"""Text to video, 16x36x64: the U-Net baseline of 85M parameters (Snap Video, Tables 7 and 9).

    python -m vdm_jax.main --config=configs/snap_unet_85m.py --workdir=runs/snap_unet_85m --config.data.path=DIR

Paper      FID 8.21, FVD 45.94, CLIPSIM 0.2319 on the authors' data; 133.2 ms per training video on an A100 (Table 2)
Parameters 85,675,011 (85,611,523 without the relative positions of temporal attention)
Work       0.691 TFLOP per evaluation of a video, 2.07 per training video
Hardware   the paper's: A100s, number not stated
Data       as in snap_fit_500m.py
Not stated text conditioning: cross attention after every spatial attention, which matches the parameter count; relative
           positions, without which temporal attention ignores the order of frames; the rest as in snap_fit_500m.py
"""

from ml_collections import ConfigDict

from vdm_jax import configuration
from vdm_jax.configs import snap_fit_500m


def get_config() -> ConfigDict:
  config = configuration.default('unet3d')
  fit = snap_fit_500m.get_config()
  config.data.update(fit.data.to_dict())
  config.sampling.update(fit.sampling.to_dict())
  config.model.update(
    process='input_scaled',
    sigma_in=4.0,
    parameterization='snap',
    sigma_data=1.0,
    logsnr='lognormal',
    noise_input='sigma',
    base_channels=128,
    channel_multipliers=(1, 2, 2, 3),
    num_blocks=2,
    attention_resolutions=(8, 16, 32),
    head_width=64,
    embedding_width=768,
    embedding_layers=2,
    dropout=0.1,
    modulation='film',
    text_conditioning='cross_attention',
    scalars=('frame_interval', 'resolution'),
    remat=True,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=550_000,
    optimizer='adam',
    learning_rate=1e-4,
    schedule='cosine',
    warmup_steps=10_000,
    beta1=0.9,
    beta2=0.999,
    weight_decay=0.01,
    ema_half_life=6_000.0,
    condition_drop_rate=0.1,
  )
  return config
