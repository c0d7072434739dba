"""T5's encoder (Raffel et al. 2020) and UMT5's (Chung et al. 2023).

Snap Video conditions on T5-11B's last hidden states (Menapace et al. 2024). UMT5 differs from T5 v1.1 in its languages,
and in that every layer has its own biases of relative positions; T5's layers share those of the first one.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.text.encoders.contract import LAYERS, TOKENIZER, Architecture, Encoder, Tensor, by_name, newer_field
from vdm_jax.text.encoders.transformer_layers import ACTIVATIONS, attend, check_activation, precision
from vdm_jax.types import Array


@dataclasses.dataclass(frozen=True)
class T5Config:
  """The keys of config.json that the module needs.

  Those with a default are newer than the first models, whose files lack them.
  """

  vocab_size: int
  d_model: int  # embedding width
  d_kv: int  # width of one head; the heads together may have another width than d_model
  d_ff: int
  num_layers: int
  num_heads: int
  relative_attention_num_buckets: int
  layer_norm_epsilon: float
  relative_attention_max_distance: int = 128
  feed_forward_proj: str = 'relu'
  dense_act_fn: str = newer_field('')  # in some files; feed_forward_proj decides

  shares_biases = True  # whether the layers have the same biases of relative positions

  def __post_init__(self):
    check_activation('feed_forward_proj', str(self.feed_forward_proj).removeprefix('gated-'))
    if self.dense_act_fn not in ('', self.activation):
      raise ValueError(
        f'dense_act_fn={self.dense_act_fn!r} contradicts feed_forward_proj={self.feed_forward_proj!r}; download '
        'it again'
      )
    buckets, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
    if buckets % 4 or farthest <= buckets // 4:
      raise ValueError(
        f'relative_attention_num_buckets={buckets} must be a multiple of 4, and less than four times '
        f'relative_attention_max_distance={farthest}; download it again'
      )

  @property
  def gated(self) -> bool:
    """Whether the MLP multiplies its hidden units by a gate, as T5 v1.1 does."""
    return self.feed_forward_proj.startswith('gated-')

  @property
  def activation(self) -> str:
    """The activation of the MLP or its gate, a key of ACTIVATIONS; T5 v1.1's 'gated-gelu' is the approximation."""
    return 'gelu_new' if self.feed_forward_proj == 'gated-gelu' else self.feed_forward_proj.removeprefix('gated-')


@dataclasses.dataclass(frozen=True)
class UMT5Config(T5Config):
  """The keys of config.json of a UMT5."""

  feed_forward_proj: str = 'gated-gelu'

  shares_biases = False


# ---- the module ------------------------------------------------------------------------------------------------------


class T5Layer(nn.Module):
  """Self-attention and an MLP, each applied to an RMS norm of the residual stream and added to it (pre-LN)."""

  config: T5Config
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array, bias: Array) -> tuple[Array, None]:
    """x float32 [b l c], mask bool [b l], bias -> (float32 [b l c], None), the signature of nn.scan.

    `bias` is float32 [h l l], or the buckets of relative positions, int32 [l l], if each layer has its own biases.
    """
    config = self.config
    if not config.shares_biases:
      bias = relative_biases(config, bias)
    dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype, precision=precision(self.dtype))
    norm = functools.partial(_RMSNorm, epsilon=config.layer_norm_epsilon, dtype=self.dtype)

    y = norm(name='attention_norm')(x)
    query, key, value = (
      dense(config.num_heads * config.d_kv, name=name)(y).reshape(*x.shape[:2], config.num_heads, config.d_kv)
      for name in ('query', 'key', 'value')
    )
    # No 1/sqrt(d): T5's weights include it.
    x = x + dense(config.d_model, name='attention_output')(attend(query, key, value, mask, bias=bias))

    y = norm(name='up_norm')(x)
    up = dense(config.d_ff, name='up')(y)
    activation = ACTIVATIONS[config.activation]
    up = up * activation(dense(config.d_ff, name='gate')(y)) if config.gated else activation(up)
    return x + dense(config.d_model, name='down')(up), None


class T5Encoder(nn.Module):
  """Maps token ids to the last hidden states; the residual stream is float32, since T5's grows large."""

  config: T5Config
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    """tokens int32 [b l], mask bool [b l], True at least once per row -> float32 [b l c], zero off the mask."""
    config = self.config
    bias = relative_buckets(
      tokens.shape[1],
      buckets=config.relative_attention_num_buckets,
      max_distance=config.relative_attention_max_distance,
    )
    if config.shares_biases:
      bias = relative_biases(config, bias)
    x = nn.Embed(config.vocab_size, config.d_model, name='word')(tokens).astype(jnp.float32)
    layers = nn.scan(
      T5Layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=config.num_layers,
    )
    x, _ = layers(config, self.dtype, name='layers')(x, mask, bias)
    x = _RMSNorm(epsilon=config.layer_norm_epsilon, dtype=jnp.float32, name='norm')(x)
    return jnp.where(mask[..., None], x, 0)


def relative_biases(config: T5Config, buckets: Array) -> Array:
  """Return the biases float32 [h l l] of the buckets int32 [l l], from a table of the module that calls it."""
  table = nn.Embed(config.relative_attention_num_buckets, config.num_heads, name='relative')
  return jnp.moveaxis(table(buckets).astype(jnp.float32), -1, 0)


class _RMSNorm(nn.Module):
  """Division by the root mean square, in float32, without centering or bias."""

  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
    return (x * scale).astype(self.dtype)


def relative_buckets(length: int, *, buckets: int, max_distance: int) -> np.ndarray:
  """Return the bucket of the distance from each query (row) to each key (column), int32 [l l] (section 2.1).

  Half of the buckets are for keys after the query. The first half of each half holds one distance per bucket. The rest
  hold ranges whose bounds grow geometrically up to `max_distance`; the last one also holds all larger distances.
  """
  half = buckets // 2
  exact = half // 2
  ranges = half - exact
  # Range k starts at exact * (max_distance / exact)^(k / ranges). Both sides are raised to the power `ranges`:
  # in integers, rounding cannot move a distance that lies on the bound.
  bounds = [exact ** (ranges - k) * max_distance**k for k in range(1, ranges)]

  def bucket(distance: int) -> int:
    far = abs(distance)
    near = far if far < exact else exact + sum(far**ranges >= bound for bound in bounds)
    return near + half * (distance > 0)

  table = np.array([bucket(distance) for distance in range(1 - length, length)], np.int32)
  position = np.arange(length)
  return table[position - position[:, None] + length - 1]


# ---- its folder ------------------------------------------------------------------------------------------------------


def _tensors(config: T5Config) -> list[Tensor]:
  width, heads = config.d_model, config.num_heads * config.d_kv

  def in_every_layer(parameter: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    names = [f'encoder.block.{i}.layer.{name}' for i in range(config.num_layers)]
    return Tensor(f'{LAYERS}{parameter}', names, shape, axes)

  relative = 'SelfAttention.relative_attention_bias.weight'
  biases = (config.relative_attention_num_buckets, config.num_heads), (None, 'heads')
  ups = {'gate': 'wi_0', 'up': 'wi_1'} if config.gated else {'up': 'wi'}
  return [
    Tensor('word/embedding', ['shared.weight'], (config.vocab_size, width), (None, 'embed')),
    Tensor('relative/embedding', [f'encoder.block.0.layer.0.{relative}'], *biases)
    if config.shares_biases
    else in_every_layer('relative/embedding', f'0.{relative}', *biases),
    in_every_layer('attention_norm/scale', '0.layer_norm.weight', (width,), ('embed',)),
    *(
      in_every_layer(f'{linear}/kernel', f'0.SelfAttention.{name}.weight', (heads, width), ('heads', 'embed'))
      for linear, name in {'query': 'q', 'key': 'k', 'value': 'v'}.items()
    ),
    in_every_layer('attention_output/kernel', '0.SelfAttention.o.weight', (width, heads), ('embed', 'heads')),
    in_every_layer('up_norm/scale', '1.layer_norm.weight', (width,), ('embed',)),
    *(
      in_every_layer(f'{linear}/kernel', f'1.DenseReluDense.{name}.weight', (config.d_ff, width), ('mlp', 'embed'))
      for linear, name in ups.items()
    ),
    in_every_layer('down/kernel', '1.DenseReluDense.wo.weight', (width, config.d_ff), ('embed', 'mlp')),
    Tensor('norm/scale', ['encoder.final_layer_norm.weight'], (width,), ('embed',)),
  ]


def _canonical_name(name: str) -> str:
  return 'shared.weight' if name == 'encoder.embed_tokens.weight' else name  # one table under two names


def _download(kind: str, tokenizer: str) -> str:
  return (
    f'Where PyTorch is installed, transformers.{kind}EncoderModel.from_pretrained("{{repository}}", dtype="bfloat16")'
    f'.save_pretrained("FOLDER") writes the first two; download {TOKENIZER}, which all {kind} models share, from '
    f'{tokenizer} on the Hugging Face hub into the same folder'
  )


T5 = Architecture(
  model_type='t5',
  title='T5',
  config=T5Config,
  width_field='d_model',
  required={'is_decoder': False},
  network=T5Encoder,
  tensors=_tensors,
  canonical_name=_canonical_name,
  tokenizer_model='Unigram',
  empty_caption=('</s>',),
  download=_download('T5', 'google-t5/t5-base'),
)
UMT5 = T5._replace(model_type='umt5', title='UMT5', config=UMT5Config, download=_download('UMT5', 'google/umt5-small'))


def _published(name: str, owner: str, d_model: int, d_ff: int) -> Encoder:
  return Encoder(name, T5, f'{owner}/{name}', {'d_model': d_model, 'd_ff': d_ff})


ENCODERS = by_name(
  Encoder('t5', T5, 'google-t5/t5-small'),
  Encoder('umt5', UMT5, 'google/umt5-small'),
  _published('t5-base', 'google-t5', d_model=768, d_ff=3072),
  _published('t5-large', 'google-t5', d_model=1024, d_ff=4096),
  _published('t5-11b', 'google-t5', d_model=1024, d_ff=65536),
  _published('t5-v1_1-xxl', 'google', d_model=4096, d_ff=10240),
)
