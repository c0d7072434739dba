"""Every configuration key with its default and its meaning, in one place.

An experiment in `configs/` starts from `default()` and changes what differs; the command line overrides single keys. A
key that is not listed here is an error. Sizes and text are set once, under `data`; the `model` section refers to them.
`changes` beside this file says of every key whether a run may change it when it resumes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vdm_jax import models
from vdm_jax.configuration import earlier_versions
from vdm_jax.configuration.changes import Change, Difference, change_of, differences
from vdm_jax.configuration.values import OPEN, compare, not_a_key
from vdm_jax.inputs import captions
from vdm_jax.names import FORMER_DEFAULTS
from vdm_jax.networks import contract

__all__ = [
  'Change',
  'Difference',
  'change_of',
  'complete',
  'default',
  'differences',
  'from_dict',
  'network_changed',
  'read',
  'resolve',
  'to_dict',
  'unknown_key',
  'validate',
]

OF_DATA = -1.0  # sampling.fps: left to the data
UNKNOWN_FPS = 8.0


def default(network: str = models.DEFAULT_NETWORK) -> ConfigDict:
  """Return every key with its default: VDM's text-to-video settings where the paper gives them.

  The result is locked: only existing keys can be set.

  >>> config = default('fit')
  >>> config.data.num_frames = 8
  >>> config.model.num_frames
  8
  """
  config = ConfigDict({'seed': 0, 'data': _data(), 'training': _training(), 'sampling': _sampling()})
  config.model = _model(network, config.data)
  config.mesh = {
    'data': -1,  # devices that split the batch; -1: all that remain, for one of the axes
    'fsdp': 1,  # devices that split the batch and the parameters, moments and averages
    'tensor': 1,  # devices that split the width of layers
  }
  return _lock(config)


def _lock(config: ConfigDict) -> ConfigDict:
  """Lock a configuration but for OPEN, whose keys depend on the function that they are arguments of."""
  config.lock()
  for name in OPEN:
    config.training[name].unlock()
  return config


def _data() -> dict[str, Any]:
  return {
    # digits (shipped), a mixture, or stored clips: folder, array, records, tfds, pictures, webdataset, parquet
    'name': 'digits',
    'path': '',  # folder of the clips, or the .npy file of array; '' for digits and mixture
    'mixture': (),  # mixture: ('folder:PATH=WEIGHT', 'tfds:PATH@FRAMERATE=WEIGHT', ...); only ratios of weights matter
    'images': (),  # like mixture: data sets of appended images and of images as videos; (): the clips themselves
    'follow_links': False,  # links may lead out of the folder, and (folder, pictures) linked folders are followed
    'frame_rate': 0.0,  # frames per second of clips without a frame rate (all but video files); 0: unknown
    'train_on_all': False,  # train on the test split too, so that no clip is held out. VDM on UCF101
    'max_bad_share': 0.05,  # fraction of unusable clips above which training stops; below, others replace them
    'batch_size': 128,  # videos per step, across all devices and micro-batches
    'num_frames': 16,
    'height': 64,  # pixels
    'width': 64,  # pixels
    'channels': 3,  # 3 for RGB, 1 for gray; any number with data.normalization other than pixels
    'normalization': 'pixels',  # of uint8 pictures; none, range or standard: of other numbers and any channels
    'normalization_values': (),  # range: (lowest, highest) of each channel; standard: (mean, standard deviation)
    'missing_values': False,  # NaN in the data is a missing value, which is 0 in x and not in the loss
    'shown_channels': (),  # one or three channels that pictures of such data show; (): the first three, or one
    'resize': 'cover',  # cover: keep the aspect ratio and cut out the center; squash: stretch to the size
    'num_images': 0,  # independent images appended to each video (joint training)
    'target_frame_rate': 0.0,  # frames per second at which frames are picked; 0: frame rate of each clip
    'frame_skip': 1,  # take every n-th of these frames
    'frame_skip_max': 0,  # if positive, n is drawn for each clip from frame_skip to this value (variable frame rate)
    'image_rate': 0.0,  # fraction of examples that are images: one frame repeated, frame interval 0. Snap: 0.5
    'pad_rows': 0,  # rows of `height`, at the top and at the bottom each, that repeat the edge; excluded from the loss
    'flip': False,  # random left-right flips
    # none, words (trainable vectors) or a frozen encoder: bert, clip, t5 or umt5 of any size, or a published model such
    # as bert-large or t5-11b, whose sizes are checked
    'text': 'none',
    'text_path': '',  # frozen encoders: folder of the files
    'text_dtype': 'float32',  # frozen encoders: compute dtype, float32 or bfloat16
    'text_cache': '',  # frozen encoders: folder of embeddings from `python -m vdm_jax.text embed`; '': none
    'text_length': 32,  # tokens per caption
    'vocabulary': (),  # words: the known words; (): all words of the captions
    'word_rule': '',  # words: unicode, or whitespace as before it existed; '': that of the resumed run, or unicode
    'labels': False,  # condition the network on class labels
    'num_workers': 0,  # worker processes that prepare batches; 0: threads of this process
    # digits: harder modes, and the frames of a clip, from which random windows of num_frames are taken; 0: as many as a
    # window spans
    'digits': {
      'num_digits': 1,
      'random_start': False,
      'bounce': False,
      'colors': False,
      'motions': False,
      'withhold': False,
      'clip_frames': 0,
    },
  }


def _model(network: str, data: ConfigDict) -> dict[str, Any]:
  shared = (
    'num_frames',
    'height',
    'width',
    'pad_rows',
    'channels',
    'text',
    'text_path',
    'text_dtype',
    'text_cache',
    'text_length',
    'vocabulary',
    'word_rule',
  )
  references = {name: data.get_ref(name) for name in shared}
  own = {
    'network': network,
    'process': 'variance_preserving',  # or input_scaled
    'parameterization': 'eps',  # eps, v, x, edm or snap
    'sigma_in': 1.0,  # input_scaled: divisor of the signal
    'image_sigma_in': 0.0,  # that of appended images with levels of their own; 0: the video's. Snap Table 3 (iv): 1
    'sigma_data': 1.0,  # edm, snap: standard deviation of the data
    'noise_input': 'logsnr',  # what tells the network the noise level: logsnr, or sigma (EDM's and Snap's c_noise)
    'logsnr': 'cosine',  # distribution of training noise levels: cosine or lognormal
    'logsnr_min': -20.0,  # cosine: lowest level, also of the cosine sampling grid
    'logsnr_max': 20.0,  # cosine: highest level, also of the cosine sampling grid
    'logsnr_shift': 0.0,  # cosine: added to every training level; negative values train on more noise
    'downsampling': 'area',  # second stage: how training makes its low-resolution input: area or bicubic (as clips)
    # levels of an example's frames: shared, images (each appended image has its own), independent (so has each frame;
    # diffusion forcing) or given (some frames of the video without noise)
    'frame_logsnr': 'shared',
    'upsampling': 1,  # second stage: spatial upsampling factor of its low-resolution input; 1: no such input
    'lognormal_mean': -1.2,  # lognormal: mean of log sigma
    'lognormal_std': 1.2,  # lognormal: standard deviation of log sigma
  }
  fields = models.network_fields(network)
  if taken := sorted(fields.keys() & (own.keys() | references.keys()) - set(contract.SHARED)):
    raise ValueError(
      f'the field {taken[0]!r} of the network {network!r} is already a key of the section `model`: rename the field.'
    )
  return {**own, **fields, **references}


def _training() -> dict[str, Any]:
  return {
    # steps in all; raise it to train a finished run further, which stretches a schedule that ends with it
    'num_steps': 200_000,
    'log_every': 100,  # steps, as all of the following `_every`
    'checkpoint_every': 5_000,
    'preview_every': 5_000,  # sample videos during training; 0: only at its end
    'heldout_every': 1_000,  # loss on held-out clips; 0: never
    'keep_checkpoints': 2,
    'stall_seconds': 1_800.0,  # hang detection: longest time for a step or its batch; 0: no limit
    'tensorboard': False,
    'optimizer': 'adam',  # adam, lamb, an optimizer of optax (adafactor, lion, muon, ...), or custom (an argument)
    'optimizer_options': {},  # further arguments of the optimizer by name, such as {'momentum': 0.9} for sgd
    'learning_rate': 3e-4,  # the highest, after the warm-up
    # constant, cosine or linear (to 0 at num_steps), inverse_sqrt, warmup_stable_decay, one of optax.schedules, or
    # custom (an argument)
    'schedule': 'constant',
    'schedule_options': {},  # arguments of the schedule, such as {'decay_steps': 10_000} of warmup_stable_decay
    'warmup_steps': 1_000,
    'beta1': 0.9,  # adam, lamb: decay of the first moment
    'beta2': 0.99,  # adam, lamb: decay of the second moment
    'weight_decay': 0.0,  # adam, lamb: decoupled; not on biases and norms
    'clip_norm': 1.0,  # global norm of the gradient; 0: no clipping
    'spike_factor': 0.0,  # skip steps whose gradient norm exceeds this many times its average, such as 10; 0: never
    'ema_decay': 0.9999,
    'ema_half_life': 0.0,  # updates; if positive, ema_decay is 0.5^(1 / half-life)
    'ema_warmup': False,  # decay after n updates at most (1 + n) / (10 + n)
    'condition_drop_rate': 0.1,  # of text and labels, for classifier-free guidance
    'self_condition_rate': 0.0,  # share of examples with self-conditioning. Snap: 0.9
    'accumulation_steps': 1,  # micro-batches per step
    'first_stage': '',  # second stage: workdir of the trained first stage, whose weights initialize it
    # Which run that was: recorded when training starts, checked when both stages are sampled.
    'first_stage_identity': {
      'weights': '',  # hash of its weights; emptied on the command line, any first stage is accepted
      'run_id': '',  # of its env.json, which stays the same when it is trained further
      'step': 0,  # of its checkpoint
      'path': '',  # path to it from the workdir
    },
    'accept_mismatch': False,  # initialize afresh the tensors that do not fit the first stage's
  }


def _sampling() -> dict[str, Any]:
  return {
    'num_steps': 256,  # points of the grid, one more than its steps: evaluations of an ancestral sampler
    'grid': 'cosine',  # cosine or karras
    'sigma_min': 0.002,  # karras: lowest noise level
    'sigma_max': 80.0,  # karras: highest noise level
    'rho': 7.0,  # karras: curvature of the grid
    'step': 'ancestral',  # ancestral, ddim, heun or dpm_solver
    'gamma': 0.0,  # ancestral: interpolates the log-variance
    'churn': 0.0,  # heun: noise added back, EDM's S_churn / num_steps
    'churn_noise': 1.0,  # heun: standard deviation of that noise, EDM's S_noise
    'churn_min': 0.0,  # heun: lowest sigma at which it is added, EDM's S_tmin
    'churn_max': 0.0,  # heun: highest sigma at which it is added, EDM's S_tmax; 0: no limit
    'langevin_delta': 0.0,  # size of a Langevin correction after each step; 0: none. VDM: 0.1
    'guidance_weight': 0.0,  # w of VDM Eq. 6; 0: off. The paper's tables print 1 + w
    'guidance_low': 0.0,  # oscillating guidance: the low weight
    'guidance_start': 0.0,  # oscillating guidance: share of the steps before it alternates; 0: constant weight
    'threshold': 'clip',  # of x_hat: clip, dynamic or none
    'percentile': 99.5,  # dynamic threshold
    'conditioning': 'reconstruction',  # on given frames: reconstruction, replacement, redraw or given_frames
    'reconstruction_weight': 10.0,  # w_r of VDM Eqs. 7 and 8. VDM: 50 and 9 for prediction, not published for text
    'low_resolution_weight': 0.0,  # w_r of Eq. 8 where a smaller video is given too; 0: reconstruction_weight
    'noise_aug_level': 0.1,  # second stage: noise on its low-resolution input, from 0 (none) to 1 (pure noise)
    'fps': OF_DATA,  # frame rate to condition on, and of the files written; -1: that of the clips trained on
    'original_size': (),  # height and width in pixels to condition on; (): those of the model's videos
  }


def resolve(config: ConfigDict, vocabulary: tuple[str, ...], frame_rate: float = 0.0) -> ConfigDict:
  """Set what is left to the data: `data.vocabulary` and `data.word_rule` for `words`, and `sampling.fps`.

  Args:
    config: a configuration, which is changed and returned.
    vocabulary: the words of the captions.
    frame_rate: frames per second of the clips as trained on; 0 if unknown, which leaves `sampling.fps` open.
  """
  if config.sampling.fps == OF_DATA and frame_rate:
    config.sampling.fps = frame_rate
  if config.data.text == 'words' and not config.data.word_rule:
    config.data.word_rule = config.model.word_rule = captions.UNICODE
  if config.data.text == 'words' and not config.data.vocabulary:
    config.data.vocabulary = config.model.vocabulary = tuple(vocabulary)
  return config


def frames_per_second(sampling: Mapping[str, Any]) -> float:
  """Return `sampling.fps`, or 8 if it is left to data that are unknown: the rate of earlier versions."""
  return UNKNOWN_FPS if sampling['fps'] == OF_DATA else sampling['fps']


def validate(config: Mapping[str, Any]) -> None:
  """Raise ValueError unless the sections and keys are exactly those of `default()`, with values of their types."""
  config = to_dict(config)
  model = config.get('model')
  network = model.get('network', models.DEFAULT_NETWORK) if isinstance(model, Mapping) else models.DEFAULT_NETWORK
  expected = to_dict(default(network))
  if isinstance(model, Mapping) and set(model) != set(expected['model']):
    others = [name for name in models.NETWORKS if set(model) == set(default(name).model)]
    if others:
      raise ValueError(network_changed(network, others[0]))
  compare(config, expected)


def network_changed(network: str, former: str) -> str:
  """Return the error message for `model.network` set to another network than the keys of `model` belong to."""
  return (
    f'config.model.network={network!r}, but the keys of `model` are those of {former!r}: the network cannot be changed '
    f'after default(); start the configuration from vdm_jax.configuration.default({network!r}).'
  )


def unknown_key(name: str, config: Mapping[str, Any] | None = None) -> str | None:
  """Return the error message for an override's key `config.section.key`, with the closest key; None if it exists.

  The keys are those of `config`, the configuration that is overridden, or of `default()` without one.
  """
  node, path = to_dict(default() if config is None else config), []
  for key in name.split('.')[1:]:
    if path and path[-1] in OPEN:
      table = 'config.' + '.'.join(path)
      return f'{name} cannot be set alone: give all options at once, --{table}="{{\'{key}\': ...}}".'
    if not isinstance(node, Mapping) or key not in node:
      return not_a_key(key, node if isinstance(node, Mapping) else {}, ''.join(f'{part}.' for part in path))
    node, path = node[key], [*path, key]
  return None


def to_dict(config: Mapping[str, Any]) -> dict[str, Any]:
  """Return a plain nested dict, with references resolved."""
  return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def read(path: str | Path) -> ConfigDict:
  """Return the configuration in a run's `config.json`. It is data: nothing in it is executed."""
  return from_dict(json.loads(Path(path).read_text()))


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
  """Return the configuration of a run from plain dicts, completed (see `complete`) and validated."""
  values = complete(values)
  validate(values)
  config = default(values['model']['network'])
  with config.unlocked():
    config.update(values)
  return _lock(config)


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
  """Return a run's configuration with current keys, from the plain dicts that an earlier version may have written.

  Renamed keys (`names.RENAMED_SETTINGS`) get their current names, and keys that did not exist yet their defaults
  (`names.FORMER_DEFAULTS`).
  """
  values = earlier_versions.with_shares(earlier_versions.renamed(values))
  network = values.get('model', {}).get('network')
  if network not in models.NETWORKS:
    return values
  return earlier_versions.fill(earlier_versions.fill(values, FORMER_DEFAULTS), to_dict(default(network)))


for _network in models.NETWORKS:
  default(_network)  # a field that is also a key of `model` is an error at import
