"""Text to video, large, 16x64x64 (Video Diffusion Models, section 4.3 and appendix A.4).

    python -m vdm_jax.main --config=configs/t2v_large.py --workdir=runs/t2v_large --config.data.path=DIR

Paper      guidance weights 1, 2, 5 (1 + w of Eq. 6), frame skips 1 and 4 (Table 5)
Parameters 1,244,921,859
Work       35.3 TFLOP per training video (7.84 forward, video alone), 2,224 H200-hours in total at 395 TFLOP/s
Hardware   the paper's: 128 TPU v4 chips
Data       a folder of captioned clips (the paper's 10 million are not public), and BERT-large (uncased)
           in data/bert-large-uncased
Not stated learning-rate schedule, warm-up, gradient clipping: constant, 1,000 steps, norm 1;
           share of dropped captions: 0.1; text length: 77; form of the attention pooling

Variants: `t2v_large.py:skip1` (default) and `t2v_large.py:skip4` use every frame and every fourth frame. The paper does
not state whether it trains one model or two.

The same configuration on a CPU, on the embedded digits:

    python -m vdm_jax.main --config=configs/t2v_large.py --workdir=runs/t2v_digits --config.data.name=digits \\
      --config.data.text=words --config.model.base_channels=32 --config.data.batch_size=4
"""

from ml_collections import ConfigDict

from vdm_jax import configuration
from vdm_jax.names import choose


def get_config(variant: str = 'skip1') -> ConfigDict:
  skips = {'skip1': 1, 'skip4': 4}
  config = configuration.default('unet3d')
  config.data.update(
    name='folder',
    path='data/captioned_videos',
    batch_size=128,
    num_frames=16,
    height=64,
    width=64,
    num_images=8,
    text='bert-large',
    text_path='data/bert-large-uncased',
    text_length=77,
    frame_skip=choose('variant of t2v_large', variant, skips),
  )
  config.model.update(
    parameterization='eps',
    base_channels=256,
    channel_multipliers=(1, 2, 4, 8),
    num_blocks=2,
    attention_resolutions=(8, 16, 32),
    head_width=64,
    embedding_width=1024,
    embedding_layers=4,
    dropout=0.0,
    remat=True,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=700_000, learning_rate=3e-4, beta1=0.9, beta2=0.99, weight_decay=0.0, ema_decay=0.9999
  )
  config.sampling.update(num_steps=256, gamma=0.3)
  return config
