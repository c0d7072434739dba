"""A network written from docs/extending/network.md alone, with everything that a network gets for free."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from einops import rearrange
from flax import linen as nn
from helpers.process_group import virtual

import vdm_jax
from vdm_jax import configuration, data, jobs, models, partitioning, training
from vdm_jax.networks import VideoNetwork
from vdm_jax.networks.embeddings import ConditionEmbedding, LogsnrEmbedding
from vdm_jax.networks.layers import dense, named
from vdm_jax.tools import doctor
from vdm_jax.tools.compilation import remedies, report


class Mixer(VideoNetwork):
  """An MLP mixer over the patches of all frames, modulated by noise level and caption."""

  num_frames: int
  height: int
  width: int
  channels: int = 3
  side: int = 4
  features: int = 32
  num_layers: int = 2
  takes_text: bool = False
  vocabulary_size: int = 0
  text_length: int = 0
  remat: bool = False

  remat_choices = (False, True)

  @nn.compact
  def __call__(self, x, logsnr, cond, carry=None, *, train=False):
    text = {name: getattr(self, name) for name in ('takes_text', 'vocabulary_size', 'text_length')}
    modulation = LogsnrEmbedding(features=self.features, width=self.features, num_layers=2, name='logsnr')(logsnr)
    caption = ConditionEmbedding(width=self.features, **text, name='condition')(cond)
    modulation = modulation if caption is None else modulation + caption[:, 0]
    h = rearrange(x, 'b t (h p) (w q) c -> b (t h w) (p q c)', p=self.side, q=self.side)
    h = dense(self.features, (None, 'embed'), name='stem')(h)
    h += self.param('position_embedding', named(nn.initializers.normal(1.0), None, 'embed'), h.shape[1:])
    layer = nn.remat(Mix) if self.remat else Mix
    for i in range(self.num_layers):
      h = layer(name=f'mix_{i}')(h, modulation)
    h = dense(self.side**2 * self.channels, ('embed', None), name='head')(h)
    size = {'t': self.num_frames, 'h': self.height // self.side, 'p': self.side, 'q': self.side}
    return rearrange(h, 'b (t h w) (p q c) -> b t (h p) (w q) c', **size), carry


class Mix(nn.Module):
  @nn.compact
  def __call__(self, x, modulation):
    tokens, width = x.shape[1:]
    h = nn.LayerNorm(name='norm')(x) * (1 + nn.Dense(width, name='modulation')(modulation)[:, None])
    h += nn.Dense(tokens, name='tokens')(nn.gelu(h.swapaxes(1, 2))).swapaxes(1, 2)
    return x + dense(width, ('mlp', 'embed'), name='down')(nn.gelu(dense(4 * width, ('embed', 'mlp'), name='up')(h)))


def make_config(**changes):
  models.NETWORKS['mixer'] = Mixer
  config = configuration.default('mixer')
  config.data.update(num_frames=2, height=16, width=16, channels=1, text='words', text_length=4, batch_size=4)
  config.data.digits.clip_frames = 2
  training = {'num_steps': 4, 'log_every': 2, 'checkpoint_every': 2, 'preview_every': 0, 'heldout_every': 0}
  config.training.update(training | {'warmup_steps': 0, 'optimizer': 'lamb', 'weight_decay': 0.01})
  config.model.update(features=16, num_layers=1)
  config.sampling.update(num_steps=2, guidance_weight=1.0)
  config.update_from_flattened_dict({key.replace('__', '.'): value for key, value in changes.items()})
  return config


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  """The table has the toy network during a test."""
  monkeypatch.setattr(models, 'NETWORKS', dict(models.NETWORKS))
  make_config()


def test_it_trains_resumes_bitwise_and_samples(tmp_path):
  assert jobs.train(make_config(), str(tmp_path / 'whole')) == 0
  shutil.copytree(tmp_path / 'whole', tmp_path / 'parts')
  shutil.rmtree(tmp_path / 'parts' / 'checkpoints' / '4')
  assert jobs.train(make_config(), str(tmp_path / 'parts')) == 0  # from step 2
  rows = [json.loads(line) for line in (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows] == [2, 4] and np.isfinite([row['train/loss'] for row in rows]).all()
  assert (tmp_path / 'parts' / 'samples' / 'step_00000004.png').exists()
  (model, whole), (_, parts) = (vdm_jax.load(str(tmp_path / name)) for name in ('whole', 'parts'))
  assert isinstance(model.module, Mixer)
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), whole, model.init(jax.random.key(0)))
  assert max(jax.tree.leaves(moved)) > 0


LOSSES = """
import numpy as np
from networks.test_toy_network import losses
one, whole = losses({'data': 1}, 1)
many, parts = losses({'fsdp': 2, 'tensor': 2}, 4)
np.testing.assert_allclose(many, one, rtol=1e-4)
for params in (whole, parts):
  print([params['mix_0'][name]['kernel'].addressable_shards[0].data.shape for name in ('up', 'tokens')])
"""


def losses(sizes, num_devices):
  """Return the losses of a few steps on a mesh, and the parameters after them."""
  config = configuration.resolve(make_config(), data.vocabulary(make_config().data))
  model, mesh = models.build(config.model), partitioning.make_mesh(sizes, jax.devices()[:num_devices])
  rule = training.optimizer.build(config.training, model.logical_axes, model.decay_mask)
  layout = training.state.abstract(model, rule, mesh)
  current = training.state.create(model, rule, mesh, 0)
  step = training.jit_train_step(model, rule, config.training, mesh, layout)
  batch = partitioning.put_batch(next(data.build(config.data, model.encode, seed=0)), mesh)
  found = []
  with jax.set_mesh(mesh):
    for _ in range(4):
      current, measured = step(current, batch, jax.device_put(jax.random.key(0), partitioning.replicated(mesh)))
      found.append(float(measured['loss']))
  return found, current.params


@pytest.mark.slow
def test_it_is_sharded_over_four_devices():
  done = subprocess.run([sys.executable, '-c', LOSSES], env=virtual(4), capture_output=True, text=True, timeout=240)
  assert done.returncode == 0, done.stdout + done.stderr
  # Layers without axis names are replicated.
  assert done.stdout.splitlines() == ['[(16, 64), (32, 32)]', '[(8, 32), (32, 32)]']


def test_it_compiles_ahead_of_time():
  found = report(make_config(), 'here')
  assert found['parameters'] > 0 and found['flops_per_step'] > 0 and found['sampling']['videos'] == 1
  assert found['fits'] is not False
  assert remedies.remat(make_config()) == {'model.remat': True} and not remedies.remat(make_config(model__remat=True))


def test_the_doctor_examines_it():
  assert doctor.problems(make_config()) == []
  assert 'model: mixer' in doctor.report(make_config())
  (problem,) = doctor.problems(make_config(data__num_images=2))
  assert "'mixer' takes no appended images" in problem
  (problem,) = doctor.problems(make_config(training__self_condition_rate=0.9))
  assert "'mixer' never carries latents" in problem


@pytest.mark.slow
def test_it_overfits_eight_clips():
  model = {'model__features': 64, 'model__num_layers': 2, 'model__parameterization': 'v'}
  rule = {'training__optimizer': 'adam', 'training__learning_rate': 1e-2, 'training__ema_warmup': True}
  found = doctor.overfit(make_config(data__text='none', **model, **rule), steps=250)
  assert found.faults == [], str(found)
