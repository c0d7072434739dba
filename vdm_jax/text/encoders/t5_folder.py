"""The folder of a T5: its configuration, and the names of its encoder's weights."""

from __future__ import annotations

import dataclasses

from vdm_jax.text.encoders.encoder_folder import TOKENIZER, Family, Published, read_fast_tokenizer
from vdm_jax.text.encoders.weight_files import Tensor


@dataclasses.dataclass(frozen=True)
class T5Config:
  """The fields of config.json that decide what the encoder computes, under their names there.

  Those with a value are newer than the first models, whose files lack them.
  """

  vocab_size: int
  d_model: int  # embedding width
  d_kv: int  # width of one head; all heads together need not have d_model
  d_ff: int
  num_layers: int
  num_heads: int
  relative_attention_num_buckets: int
  layer_norm_epsilon: float
  relative_attention_max_distance: int = 128
  feed_forward_proj: str = 'relu'

  def __post_init__(self):
    if self.feed_forward_proj not in ('relu', 'gated-gelu'):
      raise ValueError(
        f"feed_forward_proj is {self.feed_forward_proj!r}, and only 'relu' and 'gated-gelu' are supported"
      )
    buckets, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
    if buckets % 4 or farthest <= buckets // 4:
      raise ValueError(
        f'relative_attention_num_buckets {buckets} must be a multiple of 4, and less than four times '
        f'relative_attention_max_distance {farthest}; download it again'
      )

  @property
  def gated(self) -> bool:
    """Whether the MLP multiplies its hidden units by a GELU gate, as T5 v1.1 does."""
    return self.feed_forward_proj == 'gated-gelu'


def _tensors(config: T5Config) -> list[Tensor]:
  width, heads = config.d_model, config.num_heads * config.d_kv

  def in_every_layer(ours: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    names = [f'encoder.block.{i}.layer.{name}' for i in range(config.num_layers)]
    return Tensor(f'layers/{ours}', names, shape, axes)

  relative = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
  ups = {'gate': 'wi_0', 'up': 'wi_1'} if config.gated else {'up': 'wi'}
  return [
    Tensor('word/embedding', ['shared.weight'], (config.vocab_size, width), (None, 'embed')),
    Tensor(
      'relative/embedding', [relative], (config.relative_attention_num_buckets, config.num_heads), (None, 'heads')
    ),
    in_every_layer('attention_norm/scale', '0.layer_norm.weight', (width,), ('embed',)),
    *(
      in_every_layer(f'{ours}/kernel', f'0.SelfAttention.{name}.weight', (heads, width), ('heads', 'embed'))
      for ours, name in {'query': 'q', 'key': 'k', 'value': 'v'}.items()
    ),
    in_every_layer('attention_output/kernel', '0.SelfAttention.o.weight', (width, heads), ('embed', 'heads')),
    in_every_layer('up_norm/scale', '1.layer_norm.weight', (width,), ('embed',)),
    *(
      in_every_layer(f'{ours}/kernel', f'1.DenseReluDense.{name}.weight', (config.d_ff, width), ('mlp', 'embed'))
      for ours, name in ups.items()
    ),
    in_every_layer('down/kernel', '1.DenseReluDense.wo.weight', (width, config.d_ff), ('embed', 'mlp')),
    Tensor('norm/scale', ['encoder.final_layer_norm.weight'], (width,), ('embed',)),
  ]


def _todays_name(name: str) -> str:
  return 'shared.weight' if name == 'encoder.embed_tokens.weight' else name  # one table under two names


T5 = Family(
  model_type='t5',
  title='T5',
  config=T5Config,
  only={'is_decoder': False},
  width='d_model',
  positions=None,
  tensors=_tensors,
  todays_name=_todays_name,
  tokenizers=(TOKENIZER,),
  tokenizer_model='Unigram',
  read_tokenizer=read_fast_tokenizer,
  empty=('</s>',),
  origin=(
    'Where PyTorch is installed, transformers.T5EncoderModel.from_pretrained("{repository}", dtype="bfloat16")'
    f'.save_pretrained("FOLDER") writes the first two; download {TOKENIZER}, which all T5 share, from '
    'google-t5/t5-base on the Hugging Face hub into the same folder'
  ),
)


def _published(name: str, owner: str, d_model: int, d_ff: int) -> Published:
  return Published(name, T5, f'{owner}/{name}', {'d_model': d_model, 'd_ff': d_ff})


PUBLISHED = {
  published.name: published
  for published in (
    _published('t5-base', 'google-t5', 768, 3072),
    _published('t5-large', 'google-t5', 1024, 4096),
    _published('t5-11b', 'google-t5', 1024, 65536),
    _published('t5-v1_1-xxl', 'google', 4096, 10240),
  )
}
