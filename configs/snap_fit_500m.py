"""Text to video, first stage, 16x36x64: the FIT of 500M parameters (Snap Video, Table 8; training by Table 9).

    python -m vdm_jax.main --config=configs/snap_fit_500m.py --workdir=runs/snap_fit_500m --config.data.path=DIR

Paper      FID 3.07, FVD 27.79, CLIPSIM 0.2459 on the authors' data; 69.5 ms per training video on an A100 (Table 2)
Parameters 495,040,048
Work       0.702 TFLOP per evaluation of a video, 2.74 per training video with self-conditioning
Hardware   the paper's: A100s, number not stated
Data       a folder of captioned clips (the paper's 238,000 hours are not public), and T5-11B's encoder in data/t5-11b
Not stated clipping norm: 1; text length: 77; distribution of frame rates: every 1st to 6th frame, uniformly; position
           and content of the 4 padded rows: 2 above and 2 below, repeating the edge, without loss; guidance: 8,
           alternating with 1 after a quarter of the levels; thresholding percentile: 99.5; original size to condition
           on in sampling: 720x1280; training of this model: that of the 3.9B model in Table 9

Half of every batch are images, as videos of one repeated frame at an infinite frame rate (section 3.3).
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('fit')
  config.data.update(
    name='folder',
    path='data/captioned_videos',
    batch_size=4096,
    image_rate=0.5,
    num_frames=16,
    height=40,
    width=64,
    pad_rows=2,
    frame_skip=1,
    frame_skip_max=6,
    text='t5-11b',
    text_path='data/t5-11b',
    text_length=77,
  )
  config.model.update(
    process='input_scaled',
    sigma_in=4.0,
    parameterization='snap',
    sigma_data=1.0,
    logsnr='lognormal',
    noise_input='sigma',
    patch_size=(1, 4, 4),
    group_size=(16, 5, 4),
    patch_width=768,
    latent_width=1024,
    condition_width=768,
    num_latents=512,
    num_blocks=6,
    num_global_layers=4,
    num_local_layers=0,
    patch_head_width=48,
    latent_head_width=64,
    dropout=0.1,
    remat='tokens',
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=550_000,
    optimizer='lamb',
    learning_rate=5e-3,
    schedule='cosine',
    warmup_steps=10_000,
    beta1=0.9,
    beta2=0.99,
    weight_decay=0.01,
    ema_half_life=6_000.0,
    condition_drop_rate=0.1,
    self_condition_rate=0.9,
  )
  config.sampling.update(
    num_steps=256,
    grid='karras',
    step='heun',
    guidance_weight=8.0,
    guidance_low=1.0,
    guidance_start=0.25,
    threshold='dynamic',
    percentile=99.5,
    fps=24,
    original_size=(720, 1280),
  )
  return config
