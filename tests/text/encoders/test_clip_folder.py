"""What the folder of a CLIP is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from vdm_jax import text
from vdm_jax.text.encoders import clip_folder, encoder_folder
from vdm_jax.text.encoders.clip import ClipEncoder
from vdm_jax.text.encoders.clip_folder import ClipConfig

TINY = clip_folder.PUBLISHED['clip-vit-large-patch14']._replace(sizes={'hidden_size': 16})
LARGE = ClipConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)


@pytest.mark.parametrize('kind', ['quick_gelu', 'gelu'])
def test_the_table_of_tensors_is_the_file_of_pytorch(write_clip, golden_clip, kind):
  config = encoder_folder.require(write_clip(kind), TINY)
  start = f'{kind}/weights/text_model.'
  assert encoder_folder.tensor_shapes(config, clip_folder.CLIP) == {
    name.removeprefix(start): value.shape for name, value in golden_clip.items() if name.startswith(start)
  }


@pytest.mark.parametrize(('config', 'count'), [(ClipConfig(), 63_165_952), (LARGE, 123_060_480)])
def test_the_published_sizes_have_the_published_number_of_parameters(config, count):
  """The table of tensors and the network agree on it, shape by shape; the projection is not counted."""
  tokens = jax.ShapeDtypeStruct((1, 4), 'int32')
  params = jax.eval_shape(ClipEncoder(config).init, jax.random.key(0), tokens, tokens)['params']
  ours = {'/'.join(k.key for k in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
  table = {}
  for tensor in clip_folder.CLIP.tensors(config):
    shape = tensor.shape[::-1] if tensor.ours.endswith('/kernel') else tensor.shape
    table[tensor.ours] = (len(tensor.names), *shape) if tensor.ours.startswith('layers/') else shape
  assert ours == table
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_what_a_configuration_leaves_out_is_as_in_the_smallest_model(write_clip):
  file = Path(write_clip()) / 'config.json'
  file.write_text(json.dumps({'model_type': 'clip', 'text_config': {'hidden_size': 16, 'num_attention_heads': 4}}))
  assert encoder_folder.read_config(str(file.parent), TINY) == ClipConfig(hidden_size=16, num_attention_heads=4)


def test_the_sizes_tell_the_published_models_apart(write_clip):
  path = write_clip()
  assert encoder_folder.problems(path, clip_folder.PUBLISHED['clip-vit-base-patch32']) == [
    f'{path}/config.json: hidden_size is 16, data.text=clip-vit-base-patch32 needs 512',
    f'{path}/config.json: intermediate_size is 24, data.text=clip-vit-base-patch32 needs 2048',
  ]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'model_type': 'siglip_text_model'},
      "model_type is 'siglip_text_model', and only 'clip_text_model' is supported; use clip-vit-large-patch14",
    ),
    ({'hidden_act': 'relu'}, "hidden_act is 'relu', and only 'quick_gelu' and 'gelu' are supported"),
    ({'num_hidden_layers': 0}, 'num_hidden_layers is 0, it must be a positive number; download it again'),
    ({'num_attention_heads': 3}, 'hidden_size 16 is no multiple of 3 heads'),
  ],
)
def test_other_architectures_are_refused(write_clip, change, message):
  path = write_clip(**change)
  assert encoder_folder.problems(path, TINY) == [f'{path}/config.json: {message}']


def test_missing_files_are_listed_with_where_they_come_from(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  assert text.check('clip-vit-base-patch32', str(tmp_path)) == [
    'data.text=clip-vit-base-patch32 needs a folder with model.safetensors, config.json and tokenizer.json of '
    f"clip-vit-base-patch32, and data.text_path='{tmp_path}' lacks model.safetensors, tokenizer.json. Download them "
    'from openai/clip-vit-base-patch32 on the Hugging Face hub into one folder (where it has no model.safetensors, and '
    'PyTorch is installed, '
    'transformers.CLIPTextModelWithProjection.from_pretrained("openai/clip-vit-base-patch32").save_pretrained("FOLDER")'
    ' writes the first two) and pass --config.data.text_path=FOLDER, or train word embeddings instead, which need no '
    'files: --config.data.text=words'
  ]
