"""Two colored digits in three motions, 16x16x16 RGB: text to video with a fifth of the combinations held out.

    python -m vdm_jax.main --config=configs/scenes.py --workdir=runs/scenes
    python -m vdm_jax.main --mode=evaluate --workdir=runs/scenes --protocol=scenes

432,000 captions such as `a red 3 moving left slowly and a blue 7 bouncing up`. The held-out combinations test whether
the model composes a digit, a color and a motion that it has not seen together. First stage of a cascade to 16x64x64
(configs/scenes_upsampler.py). 3,433,196 parameters: the network of configs/digits.py, twice as wide.
"""

from ml_collections import ConfigDict

from vdm_jax.configs import digits


def get_config() -> ConfigDict:
  config = digits.get_config()
  config.data.update(num_frames=16, channels=3, text_length=13)
  config.data.digits.update(num_digits=2, colors=True, motions=True, withhold=True)
  config.model.update(base_channels=64)
  config.training.update(
    num_steps=8_000,
    log_every=100,
    checkpoint_every=1_000,
    preview_every=2_000,
    heldout_every=1_000,
    learning_rate=1e-3,
    warmup_steps=300,
    ema_decay=0.999,
  )
  config.sampling.update(num_steps=32)
  return config
