"""What a run may change when it resumes: every configuration key is free, allowed with a flag, or refused."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Change(enum.Enum):
  """What it means to change a key of a run that resumes."""

  FREE = 'free'  # changes no number of the training, or only its rounding
  ALLOWED = '--allow_change'  # continues the same model differently
  REFUSED = 'new run'  # makes another model


# Every key, or a section's name and a dot for all its keys. A key of `model` that repeats one of `data` follows it.
FREE = (
  *('sampling.', 'mesh.'),
  *(
    'data.path',
    'data.follow_links',
    'data.shown_channels',
    'data.text_path',
    'data.text_dtype',
    'data.text_cache',
    'data.num_workers',
    'data.max_bad_share',
  ),
  *('model.remat', 'model.dtype', 'model.attention'),
  *('training.num_steps', 'training.log_every', 'training.checkpoint_every', 'training.preview_every'),
  *('training.heldout_every', 'training.keep_checkpoints', 'training.stall_seconds', 'training.tensorboard'),
  *('training.accumulation_steps', 'training.spike_factor'),
  *('training.first_stage', 'training.first_stage_identity.', 'training.accept_mismatch'),  # only read by a new run
)
ALLOWED = (
  'seed',
  *('data.name', 'data.mixture', 'data.images', 'data.train_on_all', 'data.batch_size', 'data.num_images'),
  *('data.frame_rate', 'data.target_frame_rate', 'data.frame_skip', 'data.frame_skip_max', 'data.image_rate'),
  *('data.flip', 'data.digits.'),
  *('model.dropout', 'model.logsnr', 'model.logsnr_min', 'model.logsnr_max', 'model.logsnr_shift'),
  *('model.lognormal_mean', 'model.lognormal_std', 'model.frame_logsnr', 'model.image_sigma_in'),
  *('training.learning_rate', 'training.schedule', 'training.schedule_options', 'training.warmup_steps'),
  *('training.optimizer_options', 'training.beta1', 'training.beta2', 'training.weight_decay', 'training.clip_norm'),
  *('training.ema_decay', 'training.ema_half_life', 'training.ema_warmup'),
  *('training.condition_drop_rate', 'training.self_condition_rate'),
)
REFUSED = (
  *('data.num_frames', 'data.height', 'data.width', 'data.channels', 'data.pad_rows', 'data.resize'),
  *('data.normalization', 'data.normalization_values', 'data.missing_values'),
  *('data.text', 'data.text_length', 'data.vocabulary', 'data.word_rule', 'data.labels'),
  *('model.network', 'model.process', 'model.parameterization', 'model.sigma_in', 'model.sigma_data'),
  *('model.upsampling', 'model.downsampling', 'model.noise_input'),
  'training.optimizer',  # its state is part of every checkpoint
)


class Difference(NamedTuple):
  """A key whose value differs from that of the run."""

  key: str
  saved: Any  # None: absent
  wanted: Any
  change: Change

  def __str__(self) -> str:
    saved, wanted = ('absent' if value is None else json.dumps(value) for value in (self.saved, self.wanted))
    return f'{self.key}: {saved} in the workdir, {wanted} now'


def change_of(key: str) -> Change:
  """Return what it means to change a key. The fields of a network are refused unless they are listed here.

  >>> change_of('training.accumulation_steps'), change_of('training.learning_rate'), change_of('model.base_channels')
  (<Change.FREE: 'free'>, <Change.ALLOWED: '--allow_change'>, <Change.REFUSED: 'new run'>)
  """
  section, _, name = key.partition('.')
  names = [key, f'data.{name}'] if section == 'model' else [key]
  for change, listed in ((Change.FREE, FREE), (Change.ALLOWED, ALLOWED), (Change.REFUSED, REFUSED)):
    if any(name in listed or any(part.endswith('.') and name.startswith(part) for part in listed) for name in names):
      return change
  return Change.REFUSED


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
  """Return the keys whose values differ, sorted, each with what its change means here.

  Args:
    saved: plain nested dicts, the configuration of a run.
    wanted: plain nested dicts, that of its continuation.

  >>> [str(change) for change in differences({'data': {'batch_size': 8}}, {'data': {'batch_size': 4}})]
  ['data.batch_size: 8 in the workdir, 4 now']
  """
  before, after = (flatten(plain(config)) for config in (saved, wanted))
  keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
  return [Difference(key, before.get(key), after.get(key), _change(key, before, after)) for key in keys]


def _change(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
  """What the change of a key means for these two configurations."""
  if key == 'training.accumulation_steps' and after.get('model.dropout'):
    return Change.ALLOWED  # every micro-batch has its own dropout mask
  if key == 'training.clip_norm' and bool(before.get(key)) != bool(after.get(key)):
    return Change.REFUSED  # the optimizer's state has another layout
  return change_of(key)


def plain(config: Any) -> dict[str, Any]:
  """Return a configuration as JSON holds it: nested dicts, with lists for tuples."""
  return json.loads(json.dumps(config.to_dict() if hasattr(config, 'to_dict') else config))


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Return `section.key` -> value; tables with arbitrary keys (`training.optimizer_options`) are single values.

  >>> flatten({'seed': 0, 'data': {'digits': {'bounce': True}}, 'training': {'optimizer_options': {'b1': 0.9}}})
  {'seed': 0, 'data.digits.bounce': True, 'training.optimizer_options': {'b1': 0.9}}
  """
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and not key.endswith('_options'):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat
