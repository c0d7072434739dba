"""Properties of the text function of every frozen encoder."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tokenizers
from helpers.process_group import virtual
from helpers.text_encoders import TINY_BERT, TINY_CLIP, TINY_T5
from safetensors.numpy import load_file, save_file

from vdm_jax.text.frozen import FrozenEncoder, load_params

TESTS = Path(__file__).resolve().parents[1]
CAPTIONS = ['a nine moving left', '', 'six and nine', 'zebra']


@pytest.fixture(params=['bert', 'clip', 'relu', 'gated-gelu'])
def encoder(request, write_bert, write_clip, write_t5) -> FrozenEncoder:
  if request.param == 'clip':
    return FrozenEncoder(TINY_CLIP, write_clip(), 12)
  if request.param == 'bert':
    return FrozenEncoder(TINY_BERT, write_bert(), 12)
  return FrozenEncoder(TINY_T5, write_t5(request.param), 12)


@pytest.fixture
def folders(write_bert, write_clip, write_t5) -> dict[str, str]:
  """Folders of encoders by name."""
  return {'bert-large': write_bert(), 'clip-vit-large-patch14': write_clip(), 't5-11b': write_t5('gated-gelu')}


@pytest.fixture
def t5(write_t5) -> FrozenEncoder:
  return FrozenEncoder(TINY_T5, write_t5(), 12)


def like(encoder: FrozenEncoder, length: int = 12, dtype: str = 'float32') -> FrozenEncoder:
  """A fresh encoder of the same folder."""
  return FrozenEncoder(encoder.encoder, encoder.path, length, dtype)


def rewrite(encoder: FrozenEncoder, dtype) -> None:
  file = Path(encoder.path) / 'model.safetensors'
  save_file({name: value.astype(dtype) for name, value in load_file(file).items()}, file)


def test_embeddings_do_not_depend_on_the_padding_length(encoder):
  long, mask = like(encoder, 20)(CAPTIONS)
  np.testing.assert_allclose(long[:, :12], encoder(CAPTIONS)[0], atol=1e-5, rtol=0)
  assert not long[:, 12:].any() and not mask[:, 12:].any()


def test_embeddings_do_not_depend_on_the_other_captions(encoder):
  together, _ = encoder(CAPTIONS)
  alone = like(encoder)
  for caption, embedding in reversed(list(zip(CAPTIONS, together, strict=True))):
    np.testing.assert_array_equal(alone([caption])[0][0], embedding)


def test_every_caption_has_something_to_attend_to(encoder):
  embeddings, mask = encoder(['', ' '])
  assert mask.any(1).all() and np.isfinite(embeddings).all()
  assert (embeddings.dtype, mask.dtype, encoder.width) == (np.float32, np.bool_, 16)


def test_a_caption_is_encoded_once(t5):
  first, _ = t5(['a nine'])
  first[:] = 7  # the caller may change what it gets
  t5.__dict__['_module'] = None  # encoding again would fail
  again, _ = t5(['a nine', 'a nine'])
  assert not (again == 7).any()
  np.testing.assert_array_equal(again[0], again[1])


def test_threads_get_the_same_embeddings(encoder):
  captions = [f'{a} {b}' for a in ('nine', 'six', 'left') for b in ('nine', 'a', 'right')]
  with ThreadPoolExecutor(8) as pool:
    threaded = list(pool.map(like(encoder), [[c] for c in captions * 3]))
  expected, _ = encoder(captions * 3)
  np.testing.assert_array_equal(np.concatenate([tokens for tokens, _ in threaded]), expected)


def run_on_four_devices(script: str) -> None:
  run = subprocess.run(
    [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(TESTS)!r})\n{script}'],
    env=virtual(4),
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr


def test_the_mesh_of_the_caller_does_not_matter(write_t5):
  """A loop that trains on four devices under `jax.set_mesh` may call the text function from within."""
  script = f"""
import jax, numpy as np
from helpers.text_encoders import TINY_T5
from vdm_jax.text.frozen import FrozenEncoder
outside, _ = FrozenEncoder(TINY_T5, {write_t5()!r}, 12)(['a nine'])
with jax.set_mesh(jax.make_mesh((4,), ('data',))):
  inside, _ = FrozenEncoder(TINY_T5, {write_t5()!r}, 12)(['a nine'])
np.testing.assert_array_equal(inside, outside)
"""
  run_on_four_devices(script)


def test_four_devices_share_the_weights_and_give_the_embeddings_of_one(folders):
  """On the mesh fsdp x tensor = 2 x 2. Only T5's table of distances is not split: it has three heads."""
  script = f"""
import jax, numpy as np
from vdm_jax.text.frozen import FrozenEncoder, load_params, local_mesh
from vdm_jax.text.encoders import ENCODERS
folders, near = {folders!r}, {{'float32': 2e-5, 'bfloat16': 0.15}}
for name, dtype in [*((name, 'float32') for name in folders), ('clip-vit-large-patch14', 'bfloat16')]:
  tiny = ENCODERS[name]._replace(sizes={{ENCODERS[name].architecture.width_field: 16}})
  one, mask = FrozenEncoder(tiny, folders[name], 12, dtype)(['a nine moving left', 'six'])
  four, same = FrozenEncoder(tiny, folders[name], 12, dtype, {{'fsdp': 2, 'tensor': -1}})(['a nine moving left', 'six'])
  np.testing.assert_array_equal(mask, same)
  np.testing.assert_allclose(four, one, atol=near[dtype], rtol=0, err_msg=name)
  mesh = local_mesh({{'fsdp': 2, 'tensor': 2}})
  params = load_params(folders[name], tiny, jax.numpy.dtype(dtype), mesh)['params']
  kernels = [layer['kernel'] for layer in params['layers'].values() if 'kernel' in layer]
  assert len(kernels) >= 6 and {{kernel.dtype for kernel in kernels}} == {{jax.numpy.dtype(dtype)}}
  for kernel in kernels:
    assert [shard.data.size for shard in kernel.addressable_shards] == [kernel.size // 4] * 4, (name, kernel.shape)
  for leaf in jax.tree.leaves(params):
    assert leaf.addressable_shards[0].data.size < leaf.size or leaf.shape == (8, 3), (name, leaf.shape)
"""
  run_on_four_devices(script)


def test_a_mesh_of_other_devices_is_rejected(t5):
  with pytest.raises(ValueError, match=r'mesh\.fsdp=3 .*= 3 devices'):
    FrozenEncoder(TINY_T5, t5.path, 12, 'float32', {'fsdp': 3})(['a'])


def test_a_long_caption_is_cut_before_its_last_token(encoder):
  count = int(encoder(['a nine moving left'])[1].sum())
  message = f"^the caption 'a nine moving left' has {count} tokens and is cut to data.text_length={count - 1}; "
  with pytest.warns(UserWarning, match=message):
    cut, mask = like(encoder, count - 1)(['a nine moving left'])
  assert mask.all()
  whole, _ = like(encoder, count - 1)(['a nine moving'])  # `left` is one piece, the last one
  np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_pickle_holds_no_weights_and_gives_the_same_embeddings(encoder, dtype):
  encoder = like(encoder, dtype=dtype)
  expected, _ = encoder(CAPTIONS)
  pickled = pickle.dumps(encoder)
  assert len(pickled) < 2000
  np.testing.assert_array_equal(pickle.loads(pickled)(CAPTIONS)[0], expected)


def test_bfloat16_only_rounds(encoder):
  exact, _ = encoder(CAPTIONS)
  rounded, _ = like(encoder, dtype='bfloat16')(CAPTIONS)
  assert rounded.dtype == np.float32
  assert 1e-4 < np.abs(rounded - exact).max() < 0.2


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_stay_narrow_and_are_widened_in_use(encoder, dtype):
  """They give what the same values stored in float32 give; computing in their own type would be off by 1e-4."""
  rewrite(encoder, dtype)
  leaves = load_params(encoder.path, encoder.encoder, np.float32)['params']['layers']
  assert {leaf.dtype for layer in leaves.values() for leaf in layer.values()} == {np.dtype(dtype)}
  stored, _ = like(encoder)(CAPTIONS)
  rewrite(encoder, np.float32)
  np.testing.assert_allclose(like(encoder)(CAPTIONS)[0], stored, atol=1e-5)


def test_matrices_are_narrowed_to_the_type_of_the_products_and_vectors_are_not(encoder):
  layers = load_params(encoder.path, encoder.encoder, ml_dtypes.bfloat16)['params']['layers']
  assert layers['query']['kernel'].dtype == ml_dtypes.bfloat16
  assert layers['attention_norm']['scale'].dtype == np.float32


def test_a_tokenizer_with_too_many_tokens_is_rejected(t5):
  file = Path(t5.path) / 'tokenizer.json'
  tokenizer = tokenizers.Tokenizer.from_file(str(file))
  tokenizer.add_tokens([f'word{i}' for i in range(30)])
  tokenizer.save(str(file))
  with pytest.raises(ValueError, match=f'^the tokenizer in {t5.path} has 41 tokens, but .* vocab_size=40;'):
    t5(['a'])


def test_a_tokenizer_that_does_not_end_captions_is_rejected(t5):
  file = Path(t5.path) / 'tokenizer.json'
  tokenizer = tokenizers.Tokenizer.from_file(str(file))
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single='$A')
  tokenizer.save(str(file))
  with pytest.raises(ValueError, match=f"^the tokenizer in {t5.path} .* 'nothing', but T5 needs '</s>';.*t5-11b$"):
    t5(['a'])


def test_other_dtypes_are_rejected(encoder):
  with pytest.raises(ValueError, match="^dtype='float16' is not valid: choose 'float32' or 'bfloat16'$"):
    like(encoder, dtype='float16')
