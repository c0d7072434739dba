"""The folder of a CLIP: the configuration of its text encoder, and the names of its weights.

Read are files of the whole model (`CLIPModel`), of the text encoder alone (`CLIPTextModel`), and of the text encoder
with its projection (`CLIPTextModelWithProjection`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vdm_jax.text.encoders.encoder_folder import TOKENIZER, Family, Published, read_fast_tokenizer
from vdm_jax.text.encoders.weight_files import Tensor

PROJECTION = 'text_projection.weight'  # into the space shared with images; not in every file

# The linear maps of one layer: name in our network -> name in the file, names of its axes.
_LINEARS = {
  'query': ('self_attn.q_proj', ('heads', 'embed')),
  'key': ('self_attn.k_proj', ('heads', 'embed')),
  'value': ('self_attn.v_proj', ('heads', 'embed')),
  'attention_output': ('self_attn.out_proj', ('embed', 'heads')),
  'up': ('mlp.fc1', ('mlp', 'embed')),
  'down': ('mlp.fc2', ('embed', 'mlp')),
}
_NORMS = {'attention_norm': 'layer_norm1', 'up_norm': 'layer_norm2'}
_FIRST_EOS = 2  # what files from before the token was told hold in its place


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """The fields of config.json that decide what the text encoder computes, under their names there.

  Files leave out what is as in the smallest published model, whose values are those here.
  """

  vocab_size: int = 49408
  hidden_size: int = 512
  intermediate_size: int = 2048
  num_hidden_layers: int = 12
  num_attention_heads: int = 8
  max_position_embeddings: int = 77
  hidden_act: str = 'quick_gelu'
  layer_norm_eps: float = 1e-5
  projection_dim: int = 512
  eos_token_id: int = 49407

  def __post_init__(self):
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads')
    if self.hidden_act not in ('quick_gelu', 'gelu'):
      raise ValueError(f"hidden_act is {self.hidden_act!r}, and only 'quick_gelu' and 'gelu' are supported")

  @property
  def ends_with_the_largest(self) -> bool:
    """Whether the file does not tell the token that ends a caption: it is the one with the largest number then."""
    return self.eos_token_id == _FIRST_EOS


def layer_tensors(config: Any) -> list[Tensor]:
  """Returns the tensors of a tower's transformer layers, its text encoder's or its image encoder's.

  `config` has their hidden_size, intermediate_size and num_hidden_layers.
  """
  width, up = config.hidden_size, config.intermediate_size

  def in_every_layer(ours: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    names = [f'encoder.layers.{i}.{name}' for i in range(config.num_hidden_layers)]
    return Tensor(f'layers/{ours}', names, shape, axes)

  tensors = []
  for ours, (name, axes) in _LINEARS.items():
    shape = {'up': (up, width), 'down': (width, up)}.get(ours, (width, width))
    tensors += [
      in_every_layer(f'{ours}/kernel', f'{name}.weight', shape, axes),
      in_every_layer(f'{ours}/bias', f'{name}.bias', shape[:1], axes[:1]),
    ]
  for ours, name in _NORMS.items():
    tensors += [
      in_every_layer(f'{ours}/scale', f'{name}.weight', (width,), ('embed',)),
      in_every_layer(f'{ours}/bias', f'{name}.bias', (width,), ('embed',)),
    ]
  return tensors


def _tensors(config: ClipConfig) -> list[Tensor]:
  width = config.hidden_size
  tables = {'token': config.vocab_size, 'position': config.max_position_embeddings}
  tensors = [
    Tensor(f'{table}/embedding', [f'embeddings.{table}_embedding.weight'], (rows, width), (None, 'embed'))
    for table, rows in tables.items()
  ]
  return [
    *tensors,
    *layer_tensors(config),
    Tensor('norm/scale', ['final_layer_norm.weight'], (width,), ('embed',)),
    Tensor('norm/bias', ['final_layer_norm.bias'], (width,), ('embed',)),
  ]


def _todays_name(name: str) -> str:
  return name.removeprefix('text_model.')


CLIP = Family(
  model_type='clip_text_model',
  title='CLIP',
  config=ClipConfig,
  section='text_config',
  only={},
  width='hidden_size',
  positions='max_position_embeddings',
  tensors=_tensors,
  todays_name=_todays_name,
  tokenizers=(TOKENIZER,),
  tokenizer_model='BPE',
  read_tokenizer=read_fast_tokenizer,
  empty=('<|startoftext|>', '<|endoftext|>'),
  origin=(
    'Download them from {repository} on the Hugging Face hub into one folder (where it has no model.safetensors, and '
    'PyTorch is installed, transformers.CLIPTextModelWithProjection.from_pretrained("{repository}")'
    '.save_pretrained("FOLDER") writes the first two)'
  ),
)


def _published(name: str, hidden_size: int, intermediate_size: int) -> Published:
  return Published(name, CLIP, f'openai/{name}', {'hidden_size': hidden_size, 'intermediate_size': intermediate_size})


PUBLISHED = {
  published.name: published
  for published in (
    _published('clip-vit-base-patch32', 512, 2048),
    _published('clip-vit-large-patch14', 768, 3072),
  )
}
