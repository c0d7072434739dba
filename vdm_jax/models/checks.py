"""Whether the settings of a `model` section fit together, and those of the two stages of a cascade."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vdm_jax import diffusion
from vdm_jax.names import choose
from vdm_jax.networks import VideoNetwork


def check_cascade(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
  """Raise ValueError unless the videos of a first stage are the input of a second, given both `model` sections.

  >>> from vdm_jax import Run
  >>> first, second = Run('pretrained:scenes'), Run('pretrained:scenes_upsampler')
  >>> check_cascade(first.config['model'], second.config['model'])
  """
  frames, channels, factor = first['num_frames'], first['channels'], second['upsampling']
  height, width = first['height'] - 2 * first['pad_rows'], first['width']
  makes = tuple(second[name] for name in ('num_frames', 'height', 'width', 'channels'))
  if (frames, height * factor, width * factor, channels) != makes:
    raise ValueError(
      f'the first stage makes {frames} frames of {height}x{width}x{channels}, which the second would upsample by '
      f'{factor}, but the second makes {makes[0]} frames of {makes[1]}x{makes[2]}x{makes[3]}: give the run that it '
      'was made for.'
    )
  for name in ('text', 'num_classes'):
    values = first.get(name, 0), second.get(name, 0)
    if (values[0] in ('none', 0)) != (values[1] in ('none', 0)):
      raise ValueError(
        f'model.{name} is {values[0]!r} in the first stage and {values[1]!r} in the second: both see the same prompts '
        'or labels, so give it to both or to neither.'
      )


def check_noise(config: Mapping[str, Any], noise_inputs: Collection[str]) -> None:
  """Raise ValueError if settings of the process and of noise levels are unknown, or have no effect together."""
  choose('model.frame_logsnr', config['frame_logsnr'], diffusion.FRAME_LEVELS)
  choose('model.noise_input', config['noise_input'], noise_inputs)
  if config['process'] != 'input_scaled':
    for name, off in (('sigma_in', 1), ('image_sigma_in', 0), ('noise_input', 'logsnr')):
      if config[name] != off:
        raise ValueError(
          f'model.{name}={config[name]!r} has no effect on process={config["process"]!r}: '
          f"set model.process='input_scaled', or {name}={off!r}."
        )
  if config['image_sigma_in'] and config['frame_logsnr'] not in ('images', 'independent'):
    raise ValueError(
      f'model.image_sigma_in={config["image_sigma_in"]} needs noise levels of the images, but model.frame_logsnr='
      f"{config['frame_logsnr']!r}: set it to 'images'."
    )


def check_upsampling(config: Mapping[str, Any], network: VideoNetwork) -> None:
  """Raise ValueError if the settings of a second stage, or of a model that is none, contradict each other."""
  factor, height, width = (config[name] for name in ('upsampling', 'height', 'width'))
  if factor < 1 or height % factor or width % factor:
    raise ValueError(f'model.upsampling={factor}, but frames are {height}x{width}: choose a divisor of both, or 1.')
  if factor == 1 and config.get('downsampling', 'area') != 'area':
    raise ValueError("model.downsampling has no effect without model.upsampling: set it to 'area'.")
  if factor > 1 and config['pad_rows']:
    raise ValueError(f'data.pad_rows={config["pad_rows"]} in a second stage: its low-resolution input has no padding.')
  if (factor > 1) != ('augmentation_logsnr' in network.scalars):
    raise ValueError(
      f'model.upsampling={factor}, model.scalars={network.scalars}: only a second stage (upsampling > 1), and every '
      "second stage, is conditioned on the noise level of its low-resolution input: add 'augmentation_logsnr' to "
      'scalars if and only if upsampling > 1.'
    )
