"""Building a model, a network and the mathematics around it, from the `model` section of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vdm_jax import diffusion, text
from vdm_jax.models import conditions
from vdm_jax.models.checks import check_cascade, check_noise, check_upsampling
from vdm_jax.names import choose, unknown
from vdm_jax.networks import FIT, UNet3D, VideoNetwork, contract, decay_mask
from vdm_jax.types import Array, Carry, Conditioning, Denoiser, Network, Params

__all__ = [
  'DEFAULT_NETWORK',
  'LOGSNR',
  'NETWORKS',
  'NOISE_INPUTS',
  'PARAMETERIZATIONS',
  'PROCESSES',
  'Model',
  'build',
  'check_cascade',
  'network_fields',
  'scalars',
  'sigma_in',
]

# `model.network`: the networks by name, each a subclass of `VideoNetwork`. To add one, see docs/extending/network.md.
NETWORKS: dict[str, type[VideoNetwork]] = {'unet3d': UNet3D, 'fit': FIT}
DEFAULT_NETWORK = 'unet3d'
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
# `model.noise_input`: the number by which a network is told the noise level, a function of logsnr and sigma_in.
# 'logsnr' means the same in every process, so that the weights of a first stage mean the same in a second with another
# sigma_in. 'sigma' is -2 log(sigma), the log-SNR that sigma would have at sigma_in = 1: Snap's Table 1 leaves EDM's
# c_noise, ln(sigma) / 4 of the process's own sigma, unaltered.
NOISE_INPUTS = {
  'logsnr': lambda logsnr, sigma_in: logsnr,
  'sigma': lambda logsnr, sigma_in: logsnr + 2 * jnp.log(jnp.asarray(sigma_in, jnp.float32)),
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

  Attributes:
    module: the network.
    process, parameterization: see `vdm_jax.diffusion`.
    sample_logsnr: distribution of noise levels in training.
    encode: captions -> tokens and their mask; None for a model without text.
    video_shape: frames, height, width, channels.
    config: the `model` section it was built from, as plain values.

  >>> from vdm_jax import configuration
  >>> model = build(configuration.default('unet3d').model)
  >>> model.video_shape, model.takes('frame_interval'), model.upsampling
  ((16, 64, 64, 3), False, 1)
  >>> params = jax.eval_shape(model.init, jax.random.key(0))
  >>> x, logsnr = np.zeros((2, *model.video_shape), np.float32), np.zeros(2, np.float32)
  >>> denoise = lambda params: model.denoiser(params)(x, logsnr, model.condition(count=2), None)
  >>> jax.eval_shape(denoise, params)[0].shape
  (2, 16, 64, 64, 3)
  """

  module: VideoNetwork
  process: diffusion.GaussianProcess
  parameterization: diffusion.Parameterization
  sample_logsnr: diffusion.LogsnrSampler
  encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None
  video_shape: tuple[int, int, int, int]
  config: dict[str, Any]

  def init(self, rng: Array) -> Params:
    """Return newly initialized float32 parameters, a tree of arrays; jit it, or `jax.eval_shape` it for the shapes."""
    return nn.unbox(self._boxed(rng))

  @property
  def logical_axes(self) -> Params:
    """The tree of parameters, each leaf a PartitionSpec of logical axis names, for `vdm_jax.partitioning`."""
    return nn.get_partition_spec(jax.eval_shape(self._boxed, jax.random.key(0)))

  def decay_mask(self, params: Params) -> Any:
    """Return the tree of bools of where weight decay and LAMB's trust ratio apply, as the network declares it."""
    return decay_mask(self.module, params)

  def network(self, params: Params, dropout_rng: Array | None = None) -> Network:
    """Return the network with its parameters bound; in training mode if and only if a dropout key is given."""
    train = dropout_rng is not None
    noise_input = NOISE_INPUTS[self.config['noise_input']]

    def network(x: Array, logsnr: Array, cond: Conditioning, carry: Carry) -> tuple[Array, Carry]:
      logsnr = noise_input(logsnr, sigma_in(self.config, x.shape[1], cond.num_images()))
      rngs = {'dropout': dropout_rng} if train else None
      result = self.module.apply({'params': params}, x, logsnr, cond, carry, train=train, rngs=rngs)
      return contract.check_result(self.module, x, result)

    return network

  def denoiser(self, params: Params) -> Denoiser:
    """Return the unguided denoiser, `(z, logsnr, cond, carry) -> (x_hat, carry)`."""
    return diffusion.precondition(self.network(params), self.process, self.parameterization)

  def grid(self, name: str, num_points: int, *, sigma_min: float, sigma_max: float, rho: float) -> Array:
    """Return an increasing sampling grid of log-SNRs.

    Args:
      name: 'cosine', from the noisy end of the model's training levels to one step before the clean end, as VDM's
        authors sample, or 'karras', between two sigmas, both included (EDM, Snap).
      num_points: points of the grid.
      sigma_min, sigma_max, rho: see `diffusion.karras_grid`.
    """
    if name == 'cosine':
      ends = {key: self.config[key] for key in ('logsnr_min', 'logsnr_max')}
      return diffusion.cosine_levels(num_points, **ends)
    if name == 'karras':
      return diffusion.karras_grid(
        num_points, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, sigma_in=self.config['sigma_in']
      )
    raise ValueError(unknown('sampling.grid', name, ('cosine', 'karras')))

  def noise_level(self, sigma: float) -> float:
    """Return sigma / alpha at a sigma of the Karras grid, which is Snap's: the noise of `x / sigma_in + sigma eps`."""
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
    """Return the condition of `count` videos, or of one video per prompt or label; warns about unknown words.

    Args:
      prompts: captions; None for the null condition.
      labels: class labels; None for the null condition.
      count: number of videos if there are neither prompts nor labels, 1 by default.
      frame_rate: frames per second, infinite for an image; ignored by a model that is not conditioned on it.
      original_size: height and width in pixels of the footage to imitate; ignored likewise.

    Raises:
      ValueError: the model takes no text or no such label, prompts are not a list, or prompts and labels differ in
        number.
    """
    return conditions.build(self, prompts, labels, count=count, frame_rate=frame_rate, original_size=original_size)

  def text_shape(self, batch: int) -> tuple[int, ...]:
    """Return the shape of a batch of captions: ids `[b 1 l]`, or embeddings `[b 1 l c]`."""
    width = text.width(*(self.config[name] for name in ('text', 'text_path', 'text_cache')))
    return (batch, 1, self.config['text_length'], *(() if width is None else (width,)))

  def takes(self, scalar: str) -> bool:
    """Return whether the model is conditioned on a scalar, a name of `networks.embeddings.SCALARS`."""
    return scalar in self.module.scalars

  @property
  def num_classes(self) -> int:
    """Number of class labels; 0 for a model without labels."""
    return self.module.num_classes

  @property
  def upsampling(self) -> int:
    """Upsampling factor per side from the low-resolution input; 1 for a model without such an input."""
    return self.config['upsampling']

  def _boxed(self, rng: Array) -> Params:
    x = jnp.zeros((1, *self.video_shape))
    result, variables = self.module.init_with_output(rng, x, jnp.zeros(1), self._example(), None)
    contract.check_result(self.module, x, result)
    return variables['params']

  def _example(self) -> Conditioning:
    """Return a condition of one example with every field that the network reads, for initialization."""
    low_resolution = jnp.zeros((1, *self.video_shape)) if self.upsampling > 1 else None
    shape = self.text_shape(1)
    return Conditioning(
      text=None if self.encode is None else jnp.zeros(shape, jnp.int32 if len(shape) == 3 else jnp.float32),
      label=jnp.zeros((1, 1), jnp.int32) if self.num_classes else None,
      low_resolution=low_resolution,
    )


def build(config: Mapping[str, Any], encode: text.Encode | None = None) -> Model:
  """Build the model of a configuration's `model` section.

  Args:
    config: the section; fields of the network are read from it by name.
    encode: replaces the section's text function, whose files need not exist then.

  Raises:
    ValueError: a name is not in its table (the message has the closest one), or settings contradict each other or the
      network's declarations.

  >>> from vdm_jax import configuration
  >>> build(configuration.default('fit').model).module.self_conditioning
  True
  """
  config = dict(config)
  check_noise(config, NOISE_INPUTS)
  encode = encode or text.build(
    config['text'],
    path=config['text_path'],
    length=config['text_length'],
    vocabulary=tuple(config['vocabulary']),
    word_rule=config['word_rule'],
    dtype=config['text_dtype'],
    cache=config['text_cache'],
  )
  module = _build_network(config, encode)
  check_upsampling(config, module)
  return Model(
    module=module,
    process=choose('model.process', config['process'], PROCESSES)(config),
    parameterization=choose('model.parameterization', config['parameterization'], PARAMETERIZATIONS)(config),
    sample_logsnr=choose('model.logsnr', config['logsnr'], LOGSNR)(config),
    encode=encode,
    video_shape=tuple(config[name] for name in ('num_frames', 'height', 'width', 'channels')),
    config=config,
  )


def sigma_in(config: Mapping[str, Any], num_frames: int, num_images: int) -> float | np.ndarray:
  """Return the `sigma_in` of a `model` section, or one for each frame, `[f]`, if appended images have their own.

  >>> sigma_in({'sigma_in': 4.0, 'image_sigma_in': 1.0}, num_frames=4, num_images=2).tolist()
  [4.0, 4.0, 1.0, 1.0]
  """
  own = config.get('image_sigma_in', 0.0)
  if not (own and num_images):
    return config['sigma_in']
  return np.where(np.arange(num_frames) < num_frames - num_images, config['sigma_in'], own).astype(np.float32)


def network_fields(name: str) -> dict[str, Any]:
  """Return the settings of a network and their defaults: the fields of its class.

  The default is `dataclasses.MISSING` for a size of the data that the class leaves open.

  Raises:
    ValueError: the network is unknown.
    TypeError: it violates the contract of `networks.contract`.

  >>> network_fields('fit')['num_latents']
  512
  """
  network = choose('model.network', name, NETWORKS)
  if not (isinstance(network, type) and issubclass(network, VideoNetwork)):
    raise TypeError(f'the network {name!r} must be a subclass of vdm_jax.networks.VideoNetwork.')
  fields = {field.name: field.default for field in dataclasses.fields(network)}
  fields = {key: value for key, value in fields.items() if key not in ('parent', 'name', *contract.DERIVED)}
  for key, value in fields.items():
    if value is dataclasses.MISSING and key not in contract.SHARED:
      raise TypeError(
        f'the field {key!r} of the network {name!r} has no default: give it one, as it becomes a key of the '
        'configuration.'
      )
  return fields


def scalars(section: Mapping[str, Any]) -> tuple[str, ...]:
  """Return the scalars that the model of a `model` section is conditioned on.

  >>> scalars({'network': 'unet3d', 'scalars': ('frame_interval',)})
  ('frame_interval',)
  """
  return tuple(section.get('scalars', choose('model.network', section['network'], NETWORKS).scalars))


def _build_network(config: Mapping[str, Any], encode: text.Encode | None) -> VideoNetwork:
  """Return the network with its fields set from the section; raises ValueError for a condition it does not take."""
  name = config['network']
  settings = {field: config[field] for field in network_fields(name)}
  settings = {field: tuple(value) if isinstance(value, list) else value for field, value in settings.items()}
  kind = NETWORKS[name]
  derived = {
    'takes_text': encode is not None,
    'vocabulary_size': getattr(encode, 'vocabulary_size', 0),
    'takes_low_resolution': config['upsampling'] > 1,
  }
  declared = {field.name for field in dataclasses.fields(kind)}
  network = kind(**settings, **{field: value for field, value in derived.items() if field in declared})
  if encode is not None and not network.takes_text:
    raise ValueError(f"model.network={name!r} takes no text, but data.text={config['text']!r}: set data.text='none'.")
  if encode is None and network.takes_text:
    raise ValueError(f"model.network={name!r} needs text, but data.text='none': set data.text.")
  if derived['vocabulary_size'] > 0 and not network.vocabulary_size:
    raise ValueError(
      f'model.network={name!r} has no field vocabulary_size and takes no word ids, but data.text={config["text"]!r}: '
      'choose a frozen text encoder.'
    )
  if config['frame_logsnr'] != 'shared' and not network.takes_frame_logsnr:
    raise ValueError(
      f'model.network={name!r} reads one noise level per video, but model.frame_logsnr={config["frame_logsnr"]!r}: '
      "set it to 'shared', or model.network='unet3d'."
    )
  if network.takes_low_resolution != derived['takes_low_resolution']:
    takes, fix = ('takes', 'above 1') if network.takes_low_resolution else ('takes no', 'to 1')
    raise ValueError(
      f'model.network={name!r} {takes} low-resolution video, but model.upsampling={config["upsampling"]}: set it {fix}.'
    )
  return network
