"""From names to parts: the `model` section of a configuration becomes a network and the mathematics around it."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vdm_jax import diffusion, text
from vdm_jax.names import choose, unknown
from vdm_jax.networks import FIT, UNet3D
from vdm_jax.types import Array, Carry, Conditioning, Denoiser, Network, Params

NETWORKS = {'unet3d': UNet3D, 'fit': FIT}
# Fields of a network that follow from other settings.
DERIVED = ('takes_text', 'vocabulary_size', 'takes_low_resolution')
PROCESSES = {
  'variance_preserving': lambda config: diffusion.variance_preserving(),
  'input_scaled': lambda config: diffusion.input_scaled(config['sigma_in']),
}
PARAMETERIZATIONS = {
  'eps': lambda config: diffusion.predict_eps,
  'v': lambda config: diffusion.predict_v,
  'x': lambda config: diffusion.predict_x,
  'edm': lambda config: diffusion.edm(config['sigma_data']),
  'snap': lambda config: diffusion.snap(config['sigma_data']),
}
LOGSNR = {
  'cosine': lambda config: diffusion.cosine_sampler(
    logsnr_min=config['logsnr_min'], logsnr_max=config['logsnr_max'], shift=config['logsnr_shift']
  ),
  'lognormal': lambda config: diffusion.lognormal_sampler(
    mean=config['lognormal_mean'], std=config['lognormal_std'], sigma_in=config['sigma_in']
  ),
}


class Model(NamedTuple):
  """A video diffusion model without its parameters: the network and the mathematics around it.

  `video_shape` is (frames, height, width, channels); `config` the plain `model` section it was built from.
  """

  module: nn.Module
  process: diffusion.GaussianProcess
  parameterization: diffusion.Parameterization
  sample_logsnr: diffusion.LogsnrSampler
  encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None
  video_shape: tuple[int, int, int, int]
  config: dict[str, Any]

  def init(self, rng: Array) -> Params:
    """Fresh float32 parameters, a tree of arrays; jit it, or `jax.eval_shape` it for shapes alone."""
    return nn.unbox(self._boxed(rng))

  @property
  def logical_axes(self) -> Params:
    """The parameters' tree, each leaf a PartitionSpec of logical axis names, for `vdm_jax.partitioning`."""
    return nn.get_partition_spec(jax.eval_shape(self._boxed, jax.random.key(0)))

  def network(self, params: Params, dropout_rng: Array | None = None) -> Network:
    """The network with its parameters bound; in training mode if and only if a dropout key is given."""
    train = dropout_rng is not None

    def network(x: Array, logsnr: Array, cond: Conditioning, carry: Carry) -> tuple[Array, Carry]:
      rngs = {'dropout': dropout_rng} if train else None
      return self.module.apply({'params': params}, x, logsnr, cond, carry, train=train, rngs=rngs)

    return network

  def denoiser(self, params: Params) -> Denoiser:
    """`(z, logsnr, cond, carry) -> (x_hat, carry)`, unguided."""
    return diffusion.precondition(self.network(params), self.process, self.parameterization)

  def grid(self, name: str, num_points: int, *, sigma_min: float, sigma_max: float, rho: float) -> Array:
    """A sampling grid of log-SNRs: 'cosine' over the model's own range, or 'karras' between two sigmas (EDM, Snap)."""
    if name == 'cosine':
      return diffusion.cosine_grid(
        num_points, logsnr_min=self.config['logsnr_min'], logsnr_max=self.config['logsnr_max']
      )
    if name == 'karras':
      return diffusion.karras_grid(
        num_points, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, sigma_in=self.config['sigma_in']
      )
    raise ValueError(unknown('sampling.grid', name, ('cosine', 'karras')))

  def noise_level(self, sigma: float) -> float:
    """sigma / alpha of a sigma of the Karras grid, which is Snap's: of `x / sigma_in + sigma eps`."""
    return self.config['sigma_in'] * sigma

  def condition(
    self,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    *,
    count: int | None = None,
    frame_rate: float | None = None,
    original_size: tuple[int, int] | None = None,
  ) -> Conditioning:
    """What to generate, one video per prompt or label, or `count`; None leaves it to the null condition.

    `frame_rate` is in frames per second, infinite for an image; `original_size` is height and width in pixels of the
    footage it should look like. A model that is told neither in training ignores them.

    Warns of words that the model has never seen. Raises ValueError where the model takes no text, or no such label,
    and for prompts that are not a list, or not as many as labels.
    """
    tokens = mask = label = None
    if isinstance(prompts, str):
      raise ValueError(f'prompts={prompts!r} is one string: give a list of prompts, one per video.')
    if prompts is not None and labels is not None and len(prompts) != len(labels):
      raise ValueError(f'{len(prompts)} prompts and {len(labels)} labels were given: give one of each per video.')
    if prompts is not None:
      if self.encode is None:
        raise ValueError(
          "prompts were given to a model without text (data.text='none'): leave them out, or give labels."
        )
      self._warn_of_unseen(prompts)
      tokens, mask = (leaf[:, None] for leaf in self.encode(list(prompts)))
    if labels is not None:
      self._check_labels(labels)
      label = np.asarray(labels, np.int32)[:, None]
    if frame_rate is not None and not frame_rate > 0:
      raise ValueError(f'frame_rate={frame_rate} must be positive: frames per second, infinite for an image.')
    if original_size is not None and (len(original_size) != 2 or not min(original_size) > 0):
      raise ValueError(f'original_size={tuple(original_size)} is no size: give height and width in pixels.')
    count = len(prompts if prompts is not None else labels if labels is not None else range(count or 1))
    interval = size = None
    if frame_rate is not None and self.takes('frame_interval'):
      interval = np.full(count, 1 / frame_rate, np.float32)
    if original_size is not None and self.takes('resolution'):
      size = np.tile(np.asarray(original_size, np.float32), (count, 1))
    return Conditioning(text=tokens, text_mask=mask, label=label, frame_interval=interval, resolution=size)

  def text_shape(self, batch: int) -> tuple[int, ...]:
    """The shape of a batch's captions: ids `[b 1 l]`, or embeddings `[b 1 l c]`."""
    length, width = self.config['text_length'], text.width(self.config['text'])
    return (batch, 1, length) if width is None else (batch, 1, length, width)

  def takes(self, scalar: str) -> bool:
    """Whether the network is given a number of `networks.embeddings.SCALARS`."""
    return scalar in self.config['scalars']

  @property
  def upsampling(self) -> int:
    """Pixels per side that the model makes of each low-resolution pixel it is given; 1: it is given none."""
    return self.config['upsampling']

  def _boxed(self, rng: Array) -> Params:
    frames, height, width, channels = self.video_shape
    x = jnp.zeros((1, frames, height, width, channels))
    return self.module.init(rng, x, jnp.zeros(1), self._example(), None)['params']

  def _example(self) -> Conditioning:
    """A condition of one example with every field that the network takes, for its shapes."""
    low_resolution = jnp.zeros((1, *self.video_shape)) if self.upsampling > 1 else None
    shape = self.text_shape(1)
    return Conditioning(
      text=None if self.encode is None else jnp.zeros(shape, jnp.int32 if len(shape) == 3 else jnp.float32),
      label=jnp.zeros((1, 1), jnp.int32) if self.config['num_classes'] else None,
      low_resolution=low_resolution,
    )

  def _warn_of_unseen(self, prompts: Sequence[str]) -> None:
    words = getattr(self.encode, 'unknown_words', None)
    for prompt in prompts if words else ():
      if unseen := words(prompt):
        warnings.warn(
          f'prompt {prompt!r}: the model has never seen {", ".join(map(repr, unseen))}; '
          'it reads each as the unknown word. '
          f'Words it knows: {" ".join(self.encode.vocabulary)}.',
          stacklevel=3,
        )

  def _check_labels(self, labels: Sequence[int]) -> None:
    classes = self.config['num_classes']
    if not classes:
      raise ValueError(
        'labels were given to a model without classes (model.num_classes=0): leave them out, or give prompts.'
      )
    if bad := [label for label in labels if not 0 <= label < classes]:
      raise ValueError(f'label {bad[0]} is not a class of this model: choose 0 to {classes - 1}.')


def build(config: Mapping[str, Any], encode: text.Encode | None = None) -> Model:
  """Builds the model of a configuration's `model` section.

  The network takes its own fields from the section. `encode` stands in for the section's text function, whose files
  then need not be there. Raises ValueError for a name that is none of the tables', naming the nearest.
  """
  config = dict(config)
  if config['sigma_in'] != 1 and config['process'] != 'input_scaled':
    raise ValueError(
      f'model.sigma_in={config["sigma_in"]} has no effect on process={config["process"]!r}: '
      "set model.process='input_scaled', or sigma_in=1."
    )
  encode = encode or text.build(
    config['text'],
    path=config['text_path'],
    length=config['text_length'],
    vocabulary=tuple(config['vocabulary']),
    dtype=config['text_dtype'],
    cache=config['text_cache'],
  )
  _check_upsampling(config)
  network = choose('model.network', config['network'], NETWORKS)
  fields = {name: config[name] for name in network_fields(config['network'])}
  return Model(
    module=network(
      **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()},
      takes_text=encode is not None,
      vocabulary_size=getattr(encode, 'vocabulary_size', 0),
      takes_low_resolution=config['upsampling'] > 1,
    ),
    process=choose('model.process', config['process'], PROCESSES)(config),
    parameterization=choose('model.parameterization', config['parameterization'], PARAMETERIZATIONS)(config),
    sample_logsnr=choose('model.logsnr', config['logsnr'], LOGSNR)(config),
    encode=encode,
    video_shape=tuple(config[name] for name in ('num_frames', 'height', 'width', 'channels')),
    config=config,
  )


@functools.cache
def network_fields(name: str) -> dict[str, Any]:
  """The settings of a network and their defaults (`dataclasses.MISSING` where there is none): the fields of its
  class.
  """
  fields = dataclasses.fields(choose('model.network', name, NETWORKS))
  return {field.name: field.default for field in fields if field.name not in ('parent', 'name', *DERIVED)}


def check_cascade(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
  """Raises ValueError unless a second stage's `model` section makes the videos of a first stage's larger."""
  frames, channels, factor = first['num_frames'], first['channels'], second['upsampling']
  height, width = first['height'] - 2 * first['pad_rows'], first['width']
  makes = tuple(second[name] for name in ('num_frames', 'height', 'width', 'channels'))
  if (frames, height * factor, width * factor, channels) != makes:
    raise ValueError(
      f'the first stage makes {frames} frames of {height}x{width}x{channels}, which the second would upsample by '
      f'{factor}, but the second makes {makes[0]} of {makes[1]}x{makes[2]}x{makes[3]}: name the run it is made for.'
    )
  for name in ('text', 'num_classes'):
    if (first[name] in ('none', 0)) != (second[name] in ('none', 0)):
      raise ValueError(
        f'model.{name} is {first[name]!r} in the first stage and {second[name]!r} in the second: both see the same '
        'prompts or labels, so give it to both or to neither.'
      )


def _check_upsampling(config: Mapping[str, Any]) -> None:
  factor, height, width = (config[name] for name in ('upsampling', 'height', 'width'))
  if factor < 1 or height % factor or width % factor:
    raise ValueError(
      f'model.upsampling={factor}, but frames are {height}x{width}: choose a number that divides both, or 1 for a '
      'model without low-resolution input.'
    )
  if factor > 1 and config['pad_rows']:
    raise ValueError(f'data.pad_rows={config["pad_rows"]} in a second stage: its low-resolution input has no padding.')
  if (factor > 1) != ('augmentation_logsnr' in config['scalars']):
    raise ValueError(
      f'model.upsampling={factor}, model.scalars={tuple(config["scalars"])}: a second stage, and only it, is told the '
      "noise level of its low-resolution input, so 'augmentation_logsnr' belongs to scalars where upsampling > 1."
    )
