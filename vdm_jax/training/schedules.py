"""Learning-rate schedules: functions from the step to the learning rate, as in `optax.schedules`.

A training step passes the number of steps taken so far, skipped ones included, so a schedule never depends on how many
updates were applied. `training.schedule` names one of this module (OURS), a schedule of optax, or `custom` for one that
is given to `training.train` as an argument.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from vdm_jax import configuration
from vdm_jax.names import choose

OURS = ('constant', 'cosine', 'linear', 'inverse_sqrt', 'warmup_stable_decay')
END_AT_NUM_STEPS = ('cosine', 'linear', 'warmup_stable_decay')
CUSTOM = 'custom'
# Schedules of optax whose parameters are numbers; others (joined, piecewise) are given as arguments.
OPTAX = {
  name: getattr(optax.schedules, name)
  for name in (
    'cosine_decay_schedule',
    'cosine_onecycle_schedule',
    'exponential_decay',
    'linear_onecycle_schedule',
    'linear_schedule',
    'polynomial_schedule',
    'warmup_constant_schedule',
    'warmup_cosine_decay_schedule',
    'warmup_exponential_decay_schedule',
  )
}
# Parameters of these schedules that hold the highest learning rate; the first that exists is training.learning_rate.
PEAKS = ('peak_value', 'init_value')


def build(training: Any, schedule: optax.Schedule | None = None) -> optax.Schedule:
  """Return the schedule of a configuration: step -> learning rate.

  The schedules of this module rise linearly to `learning_rate` at step `warmup_steps - 1`. Then, with w =
  `warmup_steps` and n = `num_steps`,

  - `constant` stays there;
  - `cosine` and `linear` fall to 0 at step n;
  - `inverse_sqrt` falls as sqrt(w / (step + 1)) (Vaswani et al. 2017, Eq. 3);
  - `warmup_stable_decay` stays there until step n - `decay_steps`, and then falls linearly to 0 at step n (Hu et al.
    2024), so that a run can be prolonged from any checkpoint before that. `decay_steps` is an option; by default a
    tenth of n.

  In a schedule of optax, `learning_rate` is its `peak_value`, or its
  `init_value` if it has no peak; `warmup_steps` is the parameter of that name, or the same linear warm-up multiplies
  the schedule; all else comes from `schedule_options`.

  Args:
    training: the configuration's section, of which `learning_rate`, `schedule`, `schedule_options`, `warmup_steps` and
      `num_steps` are read.
    schedule: the schedule itself, if and only if `training.schedule` is 'custom'.

  Raises:
    ValueError: an unknown schedule, invalid options, settings without effect, or a warm-up that leaves no steps for
      the decay.

  >>> config = configuration.default().training
  >>> config.update(learning_rate=1e-3, schedule='cosine', warmup_steps=10, num_steps=100)
  >>> rate = build(config)
  >>> [f'{rate(step):.4f}' for step in (0, 9, 55, 100)]
  ['0.0001', '0.0010', '0.0005', '0.0000']
  >>> config.update(schedule='exponential_decay', warmup_steps=0, schedule_options={'transition_steps': 10})
  >>> build(config)
  Traceback (most recent call last):
  ...
  ValueError: training.schedule_options lacks decay_rate, which training.schedule='exponential_decay' needs.
  """
  name = choose('training.schedule', training.schedule, (*OURS, *OPTAX, CUSTOM))
  check_argument('schedule', name, schedule)
  if name == CUSTOM:
    check_unused(training, ('learning_rate', 'warmup_steps', 'schedule_options'), 'schedule')
    return schedule
  if name in OPTAX:
    return _from_optax(training)
  shapes = {'cosine': _cosine, 'linear': _linear, 'inverse_sqrt': _inverse_sqrt, 'warmup_stable_decay': _stable_decay}
  shape = optax.schedules.constant_schedule(1.0)
  if name != 'warmup_stable_decay':
    check_unused(training, ('schedule_options',), 'schedule')
  if name != 'constant':
    given = {'warmup': training.warmup_steps, 'total': training.num_steps}
    shape = bind_options('training.schedule_options', shapes[name], training.schedule_options, given)()
  warm_up = _warm_up(training.learning_rate, training.warmup_steps)
  return lambda step: warm_up(step) * shape(step)


def bind_options(
  setting: str, function: Callable[..., Any], options: Mapping[str, Any], given: Mapping[str, Any]
) -> Any:
  """Return `function` with the arguments of `given` and `options` bound, and check that these are all it needs.

  Args:
    setting: the configuration key of the options, for messages.
    function: a function of optax or of this package.
    options: further arguments by name, from the configuration.
    given: arguments that follow from other settings or come later; None: comes later.

  Raises:
    ValueError: an option that is not a parameter of the function, or a parameter without a value.
  """
  parameters = inspect.signature(function).parameters
  valid = [name for name in parameters if name not in given]
  for name in options:
    choose(setting, name, valid)
  missing = [name for name in valid if parameters[name].default is inspect.Parameter.empty and name not in options]
  if missing:
    owner = setting.removesuffix('_options')
    raise ValueError(f'{setting} lacks {", ".join(missing)}, which {owner}={_name(function)!r} needs.')
  return functools.partial(function, **{name: value for name, value in given.items() if value is not None}, **options)


def check_argument(role: str, name: str, argument: Any) -> None:
  """Raise ValueError unless an optimizer or schedule is given as an argument exactly where the name is 'custom'."""
  if name == CUSTOM and argument is None:
    raise ValueError(
      f"training.{role}='custom' needs the argument {role} of training.train: pass it there, or name one of optax."
    )
  if name != CUSTOM and argument is not None:
    raise ValueError(
      f"training.{role}={name!r}, but another {role} is given as an argument: set training.{role}='custom', so that "
      'config.json tells.'
    )


def check_unused(training: Any, keys: Iterable[str], role: str) -> None:
  """Raise ValueError if one of these settings, which the chosen optimizer or schedule does not read, is changed."""
  defaults = configuration.default().training
  for key in keys:
    value, default = _plain(training[key]), _plain(defaults[key])
    if value != default:
      named = training[role] != CUSTOM and not key.endswith('_options')
      hint = f', or give what it needs in training.{role}_options' if named else ''
      raise ValueError(
        f'training.{key}={value} has no effect on training.{role}={training[role]!r}: leave it at {default}{hint}.'
      )


def _from_optax(training: Any) -> optax.Schedule:
  function = OPTAX[training.schedule]
  parameters = inspect.signature(function).parameters
  given = {next(name for name in PEAKS if name in parameters): training.learning_rate}
  if 'warmup_steps' in parameters:
    given['warmup_steps'] = training.warmup_steps
    return bind_options('training.schedule_options', function, training.schedule_options, given)()
  schedule = bind_options('training.schedule_options', function, training.schedule_options, given)()
  warm_up = _warm_up(1.0, training.warmup_steps)
  return lambda step: warm_up(step) * schedule(step)


def _warm_up(peak: float, steps: int) -> optax.Schedule:
  """A line that reaches the peak at step `steps - 1`, then constant; `optax.linear_schedule` rounds otherwise."""
  return lambda step: peak * jnp.minimum(1.0, (step + 1) / max(steps, 1))


def _cosine(warmup: int, total: int) -> optax.Schedule:
  """From 1 at step `warmup` to 0 at step `total`; `optax.cosine_decay_schedule` rounds its angle otherwise."""
  done = _done(warmup, total)
  return lambda step: 0.5 * (1.0 + jnp.cos(jnp.pi * done(step)))


def _linear(warmup: int, total: int) -> optax.Schedule:
  """From 1 at step `warmup` to 0 at step `total`."""
  done = _done(warmup, total)
  return lambda step: 1.0 - done(step)


def _inverse_sqrt(warmup: int, total: int) -> optax.Schedule:
  """1 until step `warmup - 1`, then in proportion to 1 / sqrt(step + 1), without end."""
  return lambda step: jnp.sqrt(max(warmup, 1) / jnp.maximum(step + 1, max(warmup, 1)))


def _stable_decay(warmup: int, total: int, decay_steps: int | None = None) -> optax.Schedule:
  """1 until step `total - decay_steps`, then a line to 0 at step `total`."""
  steps = max(total // 10, 1) if decay_steps is None else decay_steps
  if not 0 < steps <= total - warmup:
    raise ValueError(
      f"training.schedule_options={{'decay_steps': {steps}}} is not a valid number of steps: give 1 to "
      f'{total - warmup}, the steps of training.num_steps={total} after training.warmup_steps={warmup}.'
    )
  return _linear(total - steps, total)


def _done(warmup: int, total: int) -> optax.Schedule:
  """The share of the steps from `warmup` to `total` that are done, 0 to 1."""
  if warmup >= total:
    raise ValueError(
      f'training.warmup_steps={warmup} leaves no steps of training.num_steps={total} for the decay: '
      'shorten the warm-up or train longer.'
    )
  return lambda step: jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)


def _name(function: Callable[..., Any]) -> str:
  return getattr(function, 'func', function).__name__


def _plain(value: Any) -> Any:
  return dict(value) if isinstance(value, Mapping) or hasattr(value, 'to_dict') else value
