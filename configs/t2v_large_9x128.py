"""Text to video, large, 9x128x128 (Video Diffusion Models, section 4.3, appendix A.4): super-resolution.

    python -m vdm_jax.main --config=configs/t2v_large_9x128.py --workdir=runs/t2v_large_9x128 --config.data.path=DIR

Paper      turns 16x64x64 at frame skip 4 into 64x128x128 at frame skip 1 (Fig. 2)
Parameters 1,249,959,939
Work       28.7 TFLOP per training video (5.38 forward, video alone), 2,066 H200-hours in total at 395 TFLOP/s
Hardware   the paper's: 128 TPU v4 chips
Data       a folder of captioned clips (the paper's 10 million are not public), and BERT-large (uncased)
           in data/bert-large-uncased
Not stated learning-rate schedule, warm-up, gradient clipping: constant, 1,000 steps, norm 1;
           share of dropped captions: 0.1; text length: 77; form of the attention pooling; reconstruction weight
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('unet3d')
  config.data.update(
    name='folder',
    path='data/captioned_videos',
    batch_size=128,
    num_frames=9,
    height=128,
    width=128,
    num_images=7,
    text='bert-large',
    text_path='data/bert-large-uncased',
    text_length=77,
  )
  config.model.update(
    parameterization='eps',
    base_channels=128,
    channel_multipliers=(1, 2, 4, 8, 16),
    num_blocks=2,
    attention_resolutions=(8, 16, 32),
    head_width=128,
    embedding_width=1024,
    embedding_layers=4,
    dropout=0.0,
    remat=True,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=800_000, learning_rate=2e-4, beta1=0.9, beta2=0.99, weight_decay=0.0, ema_decay=0.9999
  )
  config.sampling.update(num_steps=256, gamma=0.3)
  return config
