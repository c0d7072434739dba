"""Text to video, small, 16x64x64 (Video Diffusion Models, section 4.3 and appendix A.4): the joint-training ablation.

    python -m vdm_jax.main --config=configs/t2v_small.py --workdir=runs/t2v_small --config.data.path=DIR

Paper      FVD 202.28/205.42 without images, 68.11/70.74 with 4, 57.84/60.72 with 8 per video (Table 4)
Parameters 331,664,387
Work       9.07 TFLOP per training video (2.01 forward, video alone), 163 H200-hours in total at 395 TFLOP/s
Hardware   the paper's: 64 TPU v4 chips
Data       a folder of captioned clips (the paper's 10 million are not public), and BERT-large (uncased)
           in data/bert-large-uncased
Not stated learning-rate schedule, warm-up, gradient clipping: constant, 1,000 steps, norm 1;
           share of dropped captions: 0.1; text length: 77; form of the attention pooling

Variants: `t2v_small.py:images0` and `t2v_small.py:images4` train with 0 and 4 independent images
per video instead of 8.
"""

from ml_collections import ConfigDict

from vdm_jax import configuration
from vdm_jax.names import choose


def get_config(variant: str = 'images8') -> ConfigDict:
  images = {'images0': 0, 'images4': 4, 'images8': 8}
  config = configuration.default('unet3d')
  config.data.update(
    name='folder',
    path='data/captioned_videos',
    batch_size=128,
    num_frames=16,
    height=64,
    width=64,
    num_images=choose('variant of t2v_small', variant, images),
    text='bert-large',
    text_path='data/bert-large-uncased',
    text_length=77,
  )
  config.model.update(
    parameterization='eps',
    base_channels=128,
    channel_multipliers=(1, 2, 4, 8),
    num_blocks=2,
    attention_resolutions=(8, 16, 32),
    head_width=64,
    embedding_width=1024,
    embedding_layers=4,
    dropout=0.0,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=200_000, learning_rate=3e-4, beta1=0.9, beta2=0.99, weight_decay=0.0, ema_decay=0.9999
  )
  config.sampling.update(num_steps=256, gamma=0.3)
  return config
