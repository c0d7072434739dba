"""Your own clips with captions, 16x64x64: a mid-size factorized U-Net for one GPU.

    python -m vdm_jax.data inspect DIR
    python -m vdm_jax.main --config=configs/folder_t2v.py --workdir=runs/folder_t2v --config.data.path=DIR

Parameters 82,778,627 with 500 words
Data       a folder of clips (mp4, mov, mkv, webm, avi, gif) with captions beside them: clip.mp4, clip.txt
Text       trainable embeddings of the words in the captions; for more than a few thousand clips use a frozen encoder:
           --config.data.text=bert-large --config.data.text_path=FOLDER_OF_ITS_FILES

A smoke test on a CPU, 106,483 parameters with 500 words, which compiles in some 20 seconds:

    --config.data.batch_size=4 --config.data.num_images=0 --config.data.num_frames=4 \\
      --config.data.height=16 --config.data.width=16 --config.model.base_channels=16 \\
      "--config.model.channel_multipliers=(1,)" "--config.model.attention_resolutions=(16,)" \\
      --config.model.num_blocks=1 --config.model.head_width=16 --config.model.norm_groups=8 \\
      --config.model.embedding_width=64 --config.model.remat=False --config.model.dtype=float32 \\
      --config.training.num_steps=200 --config.sampling.num_steps=16
"""

from ml_collections import ConfigDict

from vdm_jax import configuration


def get_config() -> ConfigDict:
  config = configuration.default('unet3d')
  config.data.update(
    name='folder',
    path='',
    batch_size=16,
    num_frames=16,
    height=64,
    width=64,
    num_images=8,
    text='words',
    text_length=32,
    num_workers=4,
  )
  config.model.update(
    parameterization='v',
    base_channels=64,
    channel_multipliers=(1, 2, 4, 8),
    num_blocks=2,
    attention_resolutions=(8, 16, 32),
    head_width=64,
    embedding_width=512,
    embedding_layers=2,
    remat=True,
    dtype='bfloat16',
  )
  config.training.update(
    num_steps=100_000,
    checkpoint_every=2_000,
    preview_every=5_000,
    learning_rate=1e-4,
    ema_decay=0.9999,
    ema_warmup=True,
  )
  config.sampling.update(num_steps=64, guidance_weight=2.0)
  return config
