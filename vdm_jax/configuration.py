"""The one place that lists every configuration key, its default and its meaning.

An experiment in `configs/` starts from `default()` and changes what differs; overrides come from the command line. A
key that is not listed here is an error. Shapes and text are stated once, under `data`: the `model` section refers to
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vdm_jax import models
from vdm_jax.names import closest


def default(network: str = 'unet3d') -> ConfigDict:
  """Every key with its default: VDM's text-to-video settings where the paper gives them. Locked: only known keys can
  be set.
  """
  config = ConfigDict({'seed': 0, 'data': _data(), 'training': _training(), 'sampling': _sampling()})
  config.model = _model(network, config.data)
  config.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1}  # devices per mesh axis; -1: all that remain
  return config.lock()


def _data() -> dict[str, Any]:
  return {
    'name': 'digits',  # digits (embedded), or your clips: folder, array, records, tfds, pictures, or mixture of these
    'path': '',  # where the clips are: a folder, or the .npy file of array; '' with mixture
    'mixture': (),  # mixture: ('folder:PATH=WEIGHT', 'tfds:PATH@FRAMERATE=WEIGHT', ...), weights in any unit
    'images': (),  # as mixture: where appended images and stills come from; (): from the clips themselves
    'frame_rate': 0.0,  # frames per second of clips that do not tell theirs (all but video files); 0: not known
    'train_on_all': False,  # train on the clips of the test split too, which measures nothing then. VDM on UCF101
    'max_bad_share': 0.05,  # share of the clips that may be unusable before training stops; others replace them
    'batch_size': 128,  # videos per step, over all devices and micro-batches
    'num_frames': 16,
    'height': 64,  # pixels
    'width': 64,
    'channels': 3,
    'num_images': 0,  # independent images appended to each video (joint training)
    'target_frame_rate': 0.0,  # frames per second that the clips' frames are picked for; 0: the clips' own
    'frame_skip': 1,  # take every n-th frame, of those picked
    'frame_skip_max': 0,  # when positive, n is drawn for each clip from frame_skip to this (variable frame rate)
    'image_rate': 0.0,  # share of the examples that are images: one frame repeated, frame interval 0. Snap: 0.5
    'pad_rows': 0,  # rows of `height`, at the top and again at the bottom, that repeat the edge; they carry no loss
    'flip': False,  # left-right flips
    'text': 'none',  # none, words (trainable vectors) or a frozen encoder: bert-large, t5-11b, ...
    'text_path': '',  # frozen encoders: folder of their files
    'text_dtype': 'float32',  # frozen encoders: what they compute in, float32 or bfloat16
    'text_cache': '',  # frozen encoders: folder of embeddings that `python -m vdm_jax.text embed` made; '': none
    'text_length': 32,  # tokens per caption
    'vocabulary': (),  # words: the known words; () stands for all that the dataset's captions use
    'labels': False,  # hand class labels to the network
    'num_workers': 0,  # processes that prepare batches; 0: threads of this one
    # digits: the embedded data's harder modes, and how many frames a clip has, of which windows of num_frames are cut
    # at random; 0: as many as a window spans
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
  )
  references = {name: data.get_ref(name) for name in shared}
  return {
    'network': network,
    'process': 'variance_preserving',  # or input_scaled
    'parameterization': 'eps',  # eps, v, x, edm or snap
    'sigma_in': 1.0,  # input_scaled: what the signal is divided by
    'sigma_data': 1.0,  # edm, snap: standard deviation of the data
    'logsnr': 'cosine',  # training noise levels: cosine or lognormal
    'logsnr_min': -20.0,  # cosine: range, also of the cosine sampling grid
    'logsnr_max': 20.0,
    'logsnr_shift': 0.0,  # cosine: added to every training level; negative trains more on noise
    'upsampling': 1,  # second stage: pixels per side made of each low-resolution pixel; 1: no low-resolution input
    'lognormal_mean': -1.2,  # lognormal: of log sigma
    'lognormal_std': 1.2,
    **models.network_fields(network),
    **references,
  }


def _training() -> dict[str, Any]:
  return {
    'num_steps': 200_000,
    'log_every': 100,
    'checkpoint_every': 5_000,
    'preview_every': 5_000,  # sample videos during training; 0: at its end alone
    'heldout_every': 1_000,  # loss on held-out clips; 0: never
    'keep_checkpoints': 2,
    'stall_seconds': 1_800.0,  # a step, or the batch for it, that takes longer ends the run with a reason; 0: no limit
    'tensorboard': False,
    'optimizer': 'adam',  # adam or lamb
    'learning_rate': 3e-4,
    'schedule': 'constant',  # after the warm-up: constant, or cosine to zero at num_steps
    'warmup_steps': 1_000,
    'beta1': 0.9,
    'beta2': 0.99,
    'weight_decay': 0.0,  # decoupled; not on biases and norms
    'clip_norm': 1.0,  # global norm of the gradient; 0: no clipping
    'spike_factor': 0.0,  # a gradient norm so many times the usual one skips its step, such as 10; 0: none does
    'ema_decay': 0.9999,
    'ema_half_life': 0.0,  # steps; when positive it replaces ema_decay by 0.5^(1 / half-life)
    'ema_warmup': False,  # decay at step n at most (1 + n) / (10 + n)
    'condition_drop_rate': 0.1,  # of text and labels, for classifier-free guidance
    'self_condition_rate': 0.0,  # Snap: 0.9
    'accumulation_steps': 1,  # micro-batches per step
    'first_stage': '',  # second stage: workdir of the trained first stage, whose weights training starts from
    'accept_mismatch': False,  # start although tensors of the first stage do not fit; those are fresh
  }


def _sampling() -> dict[str, Any]:
  return {
    'num_steps': 256,  # points of the grid: evaluations of an ancestral sampler
    'grid': 'cosine',  # cosine or karras
    'sigma_min': 0.002,  # karras: range and curvature
    'sigma_max': 80.0,
    'rho': 7.0,
    'step': 'ancestral',  # ancestral, ddim, heun or dpm_solver
    'gamma': 0.0,  # ancestral: interpolates the log-variance
    'churn': 0.0,  # heun: noise added back, EDM's S_churn / num_steps
    'churn_noise': 1.0,  # heun: standard deviation of that noise, EDM's S_noise
    'churn_min': 0.0,  # heun: the sigmas at which it is added, EDM's S_tmin and S_tmax; 0 as the latter: no limit
    'churn_max': 0.0,
    'langevin_delta': 0.0,  # size of a Langevin correction after each step; 0: none. VDM: 0.1
    'guidance_weight': 0.0,  # w of VDM Eq. 6; 0: off. The paper's tables print 1 + w
    'guidance_low': 0.0,  # oscillating guidance: the low weight
    'guidance_start': 0,  # oscillating guidance: steps before the weight alternates; 0: it never does
    'threshold': 'clip',  # of x_hat: clip, dynamic or none
    'percentile': 99.5,  # dynamic threshold
    'conditioning': 'reconstruction',  # on given frames: reconstruction, replacement or redraw
    'reconstruction_weight': 10.0,  # w_r of VDM Eqs. 7 and 8. VDM: 50 and 9 for prediction, not published for text
    'noise_aug_level': 0.1,  # second stage: noise on its low-resolution input, 0 (none) to 1 (nothing else)
    'fps': 8,  # frame rate to ask for, and of the files written
    'original_size': (),  # height and width in pixels to ask for; (): those of the model's videos
  }


def resolve(config: ConfigDict, vocabulary: tuple[str, ...]) -> ConfigDict:
  """Fills what only the dataset knows: its words, where `data.text` is 'words' and `data.vocabulary` is empty."""
  if config.data.text == 'words' and not config.data.vocabulary:
    config.data.vocabulary = config.model.vocabulary = tuple(vocabulary)
  return config


def validate(config: Mapping[str, Any]) -> None:
  """Raises ValueError unless the sections and keys are exactly those of `default()`, with values of their types."""
  config = to_dict(config)
  model = config.get('model')
  network = model.get('network', 'unet3d') if isinstance(model, Mapping) else 'unet3d'
  _compare(config, to_dict(default(network)), '')


def unknown_key(name: str) -> str | None:
  """What is wrong with an override's key `config.section.key`, naming the nearest right one; None if nothing is."""
  node, path = to_dict(default()), []
  for key in name.split('.')[1:]:
    if not isinstance(node, Mapping) or key not in node:
      return _not_a_key(key, node if isinstance(node, Mapping) else {}, ''.join(f'{part}.' for part in path))
    node, path = node[key], [*path, key]
  return None


def to_dict(config: Mapping[str, Any]) -> dict[str, Any]:
  """A plain nested dict, references followed."""
  return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def read(path: str | Path) -> ConfigDict:
  """Reads a run's `config.json`. It is data: nothing in it is executed."""
  return from_dict(json.loads(Path(path).read_text()))


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
  """A run's configuration out of plain dicts, keys that it was too early to know at their defaults; validated."""
  values = complete(dict(values))
  validate(values)
  config = default(values['model']['network'])
  with config.unlocked():
    config.update(values)
  return config


def complete(values: dict[str, Any]) -> dict[str, Any]:
  """A configuration as plain dicts, with the defaults of keys that its run was too early to know."""
  network = values.get('model', {}).get('network')
  return _fill(values, to_dict(default(network))) if network in models.NETWORKS else values


def _fill(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
  filled = defaults | given
  for key, default_value in defaults.items():
    if isinstance(default_value, dict) and isinstance(filled[key], dict):
      filled[key] = _fill(filled[key], default_value)
  return filled


def _compare(given: Mapping[str, Any], expected: Mapping[str, Any], prefix: str) -> None:
  for key in given:
    if key not in expected:
      raise ValueError(_not_a_key(key, expected, prefix))
  for key, default_value in expected.items():
    if key not in given:
      raise ValueError(
        f'config.{prefix}{key} is missing: start the configuration from vdm_jax.configuration.default().'
      )
    value = given[key]
    if isinstance(default_value, Mapping) and isinstance(value, Mapping):
      _compare(value, default_value, f'{prefix}{key}.')
    elif not _fits(value, default_value):
      raise ValueError(
        f'config.{prefix}{key}={value!r} is of type {type(value).__name__}, not {type(default_value).__name__}.'
      )


def _not_a_key(key: str, expected: Mapping[str, Any], prefix: str) -> str:
  near = closest(key, expected)
  if not expected:
    hint = f'config.{prefix[:-1]} is one value.'
  else:
    hint = f'did you mean config.{prefix}{near}?' if near else f'the keys here are {", ".join(expected)}.'
  return f'config.{prefix}{key} is not a configuration key: {hint}'


def _fits(value: Any, like: Any) -> bool:
  if isinstance(like, float):
    return isinstance(value, int | float) and not isinstance(value, bool)
  if isinstance(like, tuple):
    return isinstance(value, tuple | list)
  return type(value) is type(like)
