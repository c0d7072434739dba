"""Reports of tiny networks on virtual devices, as JSON; a separate process, as it sets the devices of JAX.

python report_cases.py plain | every
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vdm_jax import configuration, partitioning
from vdm_jax.tools.compilation import programs, report
from vdm_jax.tools.compilation.costs import costs
from vdm_jax.tools.compilation.flops import jaxpr_flops
from vdm_jax.training import optimizer, state

FIT = {
  'data.num_frames': 2,
  'data.height': 8,
  'data.width': 8,
  'data.channels': 1,
  'data.batch_size': 8,
  'model.patch_size': (1, 4, 4),
  'model.group_size': (2, 1, 1),
  'model.patch_width': 16,
  'model.latent_width': 16,
  'model.condition_width': 16,
  'model.num_latents': 8,
  'model.num_blocks': 2,
  'model.num_global_layers': 1,
  'model.patch_head_width': 8,
  'model.latent_head_width': 8,
  'model.self_conditioning': False,
}
UNET = {
  'data.num_frames': 2,
  'data.height': 8,
  'data.width': 8,
  'data.channels': 1,
  'model.num_classes': 2,
  'model.base_channels': 8,
  'model.channel_multipliers': (1, 2),
  'model.num_blocks': 1,
  'model.head_width': 8,
  'model.attention_resolutions': (4,),
  'model.embedding_width': 16,
  'model.norm_groups': 4,
  'sampling.guidance_weight': 2.0,
}
# About 1.4 GB per device of two.
MANY = 2**14


def fit(**changes: Any) -> ConfigDict:
  config = configuration.default('fit')
  config.update_from_flattened_dict(FIT | {key.replace('__', '.'): value for key, value in changes.items()})
  return config


def state_bytes(devices: list) -> dict[str, dict[str, int]]:
  """Return the bytes per device of each part of the state, on two meshes."""
  config, found = fit(), {}
  model = programs.build_model(config)
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  for axis in ('data', 'fsdp'):
    layout = state.abstract(model, rule, partitioning.make_mesh({axis: 2}, devices))
    found[axis] = {name: programs.bytes_per_device(getattr(layout, name)) for name in ('params', 'opt_state', 'ema')}
  return found


def collectives(devices: list) -> dict[str, dict[str, float]]:
  """Return the costs of two programs that exchange `[32 32]` float32 between two devices in a loop of 5 iterations."""
  mesh = Mesh(devices, ('d',), axis_types=(AxisType.Auto,))
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (('d',), ()))
  x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=split)
  total = jax.ShapeDtypeStruct((32, 32), jnp.float32, sharding=whole)

  def reduced(x, total):  # each device sums over half of the rows
    def body(total, _):
      return total + jax.lax.with_sharding_constraint((x * total[0]).T @ x, whole), None

    return jax.lax.scan(body, total, length=5)[0]

  def gathered(x, total):
    def body(x, _):
      return jax.lax.with_sharding_constraint(jnp.sin(x), split), jax.lax.with_sharding_constraint(x, whole)[0, 0]

    return jax.lax.scan(body, x, length=5)[1]

  def of(function):
    return costs(jax.jit(function).lower(x, total).compile().as_text(), 2)._asdict()

  return {'reduced': of(reduced), 'gathered': of(gathered)}


def forward_on_fsdp(devices: list) -> dict[str, float]:
  """Return the costs of evaluating 256 videos, with videos and parameters split over the same two devices."""
  mesh = partitioning.make_mesh({'fsdp': 2}, devices)
  model = programs.build_model(config := fit(data__batch_size=256))
  layout, batch, _ = programs.train_step(model, config, mesh).arguments
  levels = jax.ShapeDtypeStruct((256,), jnp.float32, sharding=partitioning.batch_sharding(mesh))
  forward = jax.jit(lambda params, x, levels, cond: model.network(params)(x, levels, cond, None)[0])
  with jax.set_mesh(mesh):
    text = forward.lower(layout.params, batch.x, levels, batch.cond).compile().as_text()
  return costs(text, 2)._asdict()


def guided_sampling(devices: list) -> dict[str, float]:
  """Return the costs of one guided sampling step of a U-Net with one video per device, and its model FLOPs."""
  config = configuration.default()
  config.update_from_flattened_dict(UNET)
  program = programs.sampling_step(programs.build_model(config), config, partitioning.make_mesh({'data': 2}, devices))
  text = program.traced.lower().compile().as_text()
  return costs(text, 2)._asdict() | {'model_flops': jaxpr_flops(program.traced.jaxpr.jaxpr)}


def main(which: str) -> dict[str, Any]:
  # The report comes first: it sets the number of devices.
  results = {'plain': report(fit(), 'gpu:1x2x80', sampling=which == 'every')}
  if which == 'every':
    results['batch'] = report(fit(data__batch_size=64), 'gpu:1x2x80', sampling=False)
    results['full'] = report(fit(data__batch_size=MANY), 'gpu:1x2x1', sampling=False)
    return results
  devices = jax.devices()[:2]
  return results | {
    'state': state_bytes(devices),
    'collectives': collectives(devices),
    'forward': forward_on_fsdp(devices),
    'guided': guided_sampling(devices),
  }


if __name__ == '__main__':
  json.dump(main(sys.argv[1]), sys.stdout)
