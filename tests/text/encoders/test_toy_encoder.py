"""An encoder written from docs/extending/text_encoder.md alone: a single entry makes all of the library use it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from vdm_jax import configuration, jobs, models, text
from vdm_jax.text.cache import CachedText
from vdm_jax.text.encoders import ENCODERS
from vdm_jax.text.encoders.contract import Architecture, Encoder, Tensor
from vdm_jax.text.frozen import FrozenEncoder
from vdm_jax.tools import doctor


@dataclasses.dataclass(frozen=True)
class ToyConfig:
  vocab_size: int
  width: int
  layers: int


class ToyLayer(nn.Module):
  @nn.compact
  def __call__(self, x, mask):
    mean = (x * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
    return x + nn.tanh(nn.Dense(x.shape[-1], name='mix')(mean)), None


class ToyEncoder(nn.Module):
  config: ToyConfig
  dtype: Any

  @nn.compact
  def __call__(self, tokens, mask):
    x = nn.Embed(self.config.vocab_size, self.config.width, name='word')(tokens)
    layers = nn.scan(
      ToyLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=self.config.layers,
    )
    x, _ = layers(name='layers')(x, mask[..., None])
    return jnp.where(mask[..., None], x, 0).astype(jnp.float32)


def toy_tensors(config: ToyConfig) -> list[Tensor]:
  width, layers = config.width, range(config.layers)
  return [
    Tensor('word/embedding', ['word'], (config.vocab_size, width), (None, 'embed')),
    Tensor('layers/mix/kernel', [f'{i}.weight' for i in layers], (width, width), ('mlp', 'embed')),
    Tensor('layers/mix/bias', [f'{i}.bias' for i in layers], (width,), ('mlp',)),
  ]


TOY = Architecture(
  model_type='toy',
  title='Toy',
  config=ToyConfig,
  width_field='width',
  network=ToyEncoder,
  tensors=toy_tensors,
  empty_caption=('</s>',),
)

WORDS = ('<unk>', '</s>', 'a', 'moving', 'left', 'right', 'up', 'down', *map(str, range(10)))
WIDTH, LAYERS = 4, 2


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  shapes = {'word': (len(WORDS), WIDTH)}
  for i in range(LAYERS):
    shapes |= {f'{i}.weight': (WIDTH, WIDTH), f'{i}.bias': (WIDTH,)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path, weights, monkeypatch) -> str:
  """The encoder's folder; the encoder is entered in the table."""
  monkeypatch.setitem(ENCODERS, 'toy-small', Encoder('toy-small', TOY, 'nobody/toy-small', {'width': WIDTH}))
  values = {'model_type': 'toy', 'vocab_size': len(WORDS), 'width': WIDTH, 'layers': LAYERS}
  (tmp_path / 'config.json').write_text(json.dumps(values))
  save_file(weights, tmp_path / 'model.safetensors')
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token='<unk>')
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single='$A </s>', special_tokens=[('</s>', 1)])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  return str(tmp_path)


@pytest.fixture
def config(folder, tmp_path):
  """A training on captioned digits with the encoder."""
  config = configuration.default()
  config.data.update(
    name='digits', text='toy-small', text_path=folder, text_length=8, num_frames=2, height=16, width=16, batch_size=1
  )
  config.model.update(
    base_channels=8, channel_multipliers=(1,), num_blocks=1, attention_resolutions=(16,), head_width=8, norm_groups=2
  )
  return config


def test_embeddings_are_those_of_the_definition(folder, weights):
  encode = text.build('toy-small', path=folder, length=8)
  embeddings, mask = encode(['a 3 left', ''])
  assert encode.width == text.width('toy-small') == WIDTH
  assert mask.sum(1).tolist() == [4, 1] and not embeddings[~mask].any()
  for row, words in zip(embeddings, (['a', '3', 'left', '</s>'], ['</s>']), strict=True):
    x = weights['word'][[WORDS.index(word) for word in words]]
    for i in range(LAYERS):
      x = x + np.tanh(x.mean(0) @ weights[f'{i}.weight'].T + weights[f'{i}.bias'])
    np.testing.assert_allclose(row[: len(words)], x, atol=1e-5)


def test_its_folder_is_checked(folder, weights):
  assert text.check('toy-small', folder) == []
  save_file(weights | {'1.bias': weights['word']}, f'{folder}/model.safetensors')
  (problem,) = text.check('toy-small', folder)
  assert '1.bias' in problem and 'config.json' in problem
  (problem,) = text.check('toy-small')
  assert 'data.text=toy-small' in problem and 'nobody/toy-small' in problem


def test_the_cache_and_the_doctor_know_it(folder, config, tmp_path):
  config.data.text_cache = str(tmp_path / 'cache')
  assert any('cache.json' in problem for problem in doctor.problems(config))
  assert jobs.embed(config) == 0
  assert doctor.problems(config) == []
  cached = text.build('toy-small', length=8, cache=config.data.text_cache)
  exact = text.build('toy-small', path=folder, length=8)
  assert isinstance(cached, CachedText)
  for ours, theirs in zip(cached(['a 3 moving left']), exact(['a 3 moving left']), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_a_model_is_conditioned_on_it(config):
  model = models.build(config.model)
  assert isinstance(model.encode, FrozenEncoder)
  cond = model.condition(['a 3 moving left', 'a 5 moving up'])
  assert cond.text.shape == (2, 1, 8, WIDTH)
  params = jax.jit(model.init)(jax.random.key(0))
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # output layers start at zero
  output, _ = jax.jit(model.network(params))(jnp.ones((2, *model.video_shape)), jnp.zeros(2), cond, None)
  assert not np.allclose(output[0], output[1])
