"""The contract of a network: everything that the rest of the library asks of one.

A network is a linen module that subclasses `VideoNetwork` and has an entry in `vdm_jax.models.NETWORKS`. It declares
what it takes and how it is treated by the attributes below; models, training, second stages, the doctor and
ahead-of-time compilation read these and nothing else. `docs/extending/network.md` builds one step by step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from vdm_jax.types import Array, Carry, Conditioning, Params

# Fields that `models.build` sets, because they follow from other settings: they are not keys of the configuration.
DERIVED = ('takes_text', 'vocabulary_size', 'takes_low_resolution')
# Fields that take the value of the `data` key of the same name: the sizes of videos and captions.
SHARED = ('num_frames', 'height', 'width', 'channels', 'text_length')


class VideoNetwork(nn.Module):
  """Base class of all networks: the call signature, and what a network declares.

  A subclass implements `__call__`. Its dataclass fields become settings of the configuration's `model` section, with
  their defaults; only the fields named in `SHARED` need none. Every attribute below has a default that suits a network
  without the feature. A subclass overrides one with a class attribute, or with a field of the same name where it is a
  setting.

  Attributes:
    takes_text: whether captions are read. As a field it is set to whether `data.text` is other than 'none'.
    vocabulary_size: word ids that captions may contain, for a table of word vectors. As a field it is set to the
      vocabulary's size for `data.text='words'`, and to 0 for a frozen encoder, whose captions arrive as embeddings.
    text_length: tokens per caption, `data.text_length`.
    num_classes: class labels that are read; 0 for a network without labels.
    scalars: numbers of the condition that are read, such as 'frame_interval'; see `embeddings.SCALARS`.
    takes_low_resolution: whether `cond.low_resolution` is read, so that the network can be a second stage. As a field
      it is set to whether `model.upsampling` is above 1.
    takes_images: whether x may end in independent images that take no part in the video (joint training, VDM section
      4.3.1).
    takes_frame_logsnr: whether logsnr may be `[b t]`, a noise level per frame.
    self_conditioning: whether the network returns a carry that its next evaluation reads (latent self-conditioning,
      Snap section 3.4). It then needs `training.self_condition_rate`.
    remat_choices: values of the field `remat`, from recomputing nothing in the backward pass to recomputing most;
      empty for a network without this field.
    input_kernels: names of the kernels that read pixels, channels in on the axis before the last. A second stage reads
      twice as many channels; it starts from the first stage's kernel and zeros for the low-resolution channels.
    position_tables: names of learned tables of positions, last axis the width. A second stage resamples the first
      stage's to its own size.
    second_stage_layers: names of layers that only a second stage has, such as the embedding of its augmentation level.
    stage_invariants: settings that change what equal weights compute, on which both stages must agree.

  Names of parameters are paths such as 'condition/words/embedding'.

  >>> from vdm_jax.networks import FIT, UNet3D
  >>> UNet3D.takes_images, FIT.takes_images
  (True, False)
  >>> UNet3D.remat_choices, FIT.remat_choices
  ((False, True), ('none', 'tokens', 'block'))
  """

  takes_text = False
  vocabulary_size = 0
  text_length = 0
  num_classes = 0
  scalars = ()
  takes_low_resolution = False
  takes_images = False
  takes_frame_logsnr = False
  self_conditioning = False
  remat_choices = ()
  input_kernels = ()
  position_tables = ()
  second_stage_layers = ()
  stage_invariants = ()

  def __call__(
    self, x: Array, logsnr: Array, cond: Conditioning, carry: Carry = None, *, train: bool = False
  ) -> tuple[Array, Carry]:
    """Return the prediction, an array like x, and the carry for the next evaluation.

    Args:
      x: noisy videos `[b t h w c]`, scaled by the parameterization to about unit variance.
      logsnr: noise levels `[b]`; also `[b t]` if the network declares `takes_frame_logsnr`.
      cond: what the videos are conditioned on. Every field may be None, and a field that the network does not read may
        be given; `drop` marks examples whose text and label are replaced by a null condition.
      carry: that of the previous evaluation. None must equal zeros; a network without one returns what it is given.
      train: whether dropout is active; its key is the stream 'dropout'.
    """
    raise NotImplementedError(f'{type(self).__name__} has no __call__.')

  def starting_rules(self, first: VideoNetwork) -> dict[str, Callable[[Mapping[str, Array]], Array]]:
    """Return how tensors of a second stage start that a plain copy or resampling would put in the wrong place.

    Args:
      first: the network of the first stage.

    Returns:
      Name of a tensor -> a function of the first stage's tensors by name; empty for a network without such tensors.

    >>> VideoNetwork().starting_rules(VideoNetwork())
    {}
    """
    return {}

  def decays(self, name: str, leaf: Any) -> bool:
    """Return whether weight decay and LAMB's trust ratio apply to a parameter.

    The default exempts biases and scales, recognized by the last word of their name in whatever shape, and vectors
    under any name.

    >>> import numpy as np
    >>> network = VideoNetwork()
    >>> network.decays('head/kernel', np.zeros((4, 3))), network.decays('qkv/bias', np.zeros((3, 2, 8)))
    (True, False)
    """
    return leaf.ndim > 1 and name.split('/')[-1].split('_')[-1] not in ('bias', 'scale')


def check_result(network: VideoNetwork, x: Array, result: Any) -> tuple[Array, Carry]:
  """Return what a network's `__call__` returned; raise ValueError unless it is a pair `(output, carry)`, output like x.

  Only shapes are read, which are known at trace time: a compiled program does not contain the check.

  >>> import numpy as np
  >>> x = np.zeros((2, 4, 8))
  >>> check_result(VideoNetwork(), x, (x[:, :1], None))
  Traceback (most recent call last):
  ...
  ValueError: VideoNetwork returned an output of shape (2, 1, 8) for x of shape (2, 4, 8): the two must be equal.
  """
  name = type(network).__name__
  if not isinstance(result, tuple) or len(result) != 2:
    found = f'a tuple of {len(result)}' if isinstance(result, tuple) else f'a single {type(result).__name__}'
    if (shape := getattr(result, 'shape', None)) is not None:
      found = f'a single array of shape {shape}'
    raise ValueError(
      f'{name} returned {found}, not a pair (output, carry) with output of shape {x.shape}: end its __call__ with '
      '`return output, carry`, where a network without a carry returns the one it is given.'
    )
  shape = getattr(result[0], 'shape', None)
  if shape != x.shape:
    raise ValueError(f'{name} returned an output of shape {shape} for x of shape {x.shape}: the two must be equal.')
  return result


def decay_mask(network: VideoNetwork, params: Params) -> Any:
  """Return the tree of bools, shaped like `params`, of where weight decay and LAMB's trust ratio apply.

  >>> import numpy as np
  >>> decay_mask(VideoNetwork(), {'dense': {'kernel': np.ones((2, 3)), 'bias': np.ones(3)}})
  {'dense': {'bias': False, 'kernel': True}}
  """

  def decays(path: Any, leaf: Array) -> bool:
    return network.decays(jax.tree_util.keystr(path, simple=True, separator='/'), leaf)

  return jax.tree_util.tree_map_with_path(decays, params)


# The mask of a network that keeps `VideoNetwork.decays`: parameters -> tree of bools.
default_decay_mask = functools.partial(decay_mask, VideoNetwork())
