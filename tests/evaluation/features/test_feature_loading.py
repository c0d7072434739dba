"""Feature networks by name: their sizes, what is recorded of them, and errors for missing and wrong files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdm_jax.evaluation import features
from vdm_jax.evaluation.features import clip_image, convolutional
from vdm_jax.evaluation.features.inference_layers import parameter_shapes, random_params
from vdm_jax.runtime.hashing import sha256

FIXTURES = Path(__file__).parent / 'fixtures'
NAMES = tuple(features.FEATURE_NETWORKS)  # before other tests add entries
TINY_CLIP = clip_image.VisionConfig(8, 12, 2, 2, 6, 12, image_size=24)


@pytest.fixture
def narrow_networks(monkeypatch, narrow):
  """Makes `load` build the narrow networks of the fixtures."""
  for name, module in narrow.items():
    published = convolutional.PUBLISHED[name]

    def build(width: float, module=module):
      assert width == 1
      return module()

    monkeypatch.setitem(convolutional.PUBLISHED, name, published._replace(module=build))
  monkeypatch.setitem(clip_image.PUBLISHED, 'clip-vit-base-patch32', TINY_CLIP)


def count(shapes) -> int:
  return sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.parametrize(
  ('name', 'published'),
  [
    # The PyTorch port has 12 697 264 parameters; TensorFlow's has no scale in its 7280 channels of batch norm.
    ('i3d', 12_697_264 - 7_280),
    # 27 655 936 of the convolutions, 50 753 637 of the three linear maps; and the mean clip.
    ('c3d', 27_655_936 + 50_753_637 + 16 * 112 * 112 * 3),
    # InceptionV3 without its last layer has 21 768 352 trained numbers; here that layer has 1008 classes and no bias.
    ('inception', 21_768_352 + 2048 * 1008),
  ],
)
def test_full_size_networks_have_the_published_number_of_parameters(name, published):
  assert count(convolutional.shapes(name, convolutional.PUBLISHED[name].module())) == published


@pytest.mark.parametrize(
  ('name', 'published'), [('clip-vit-base-patch32', 87_849_216), ('clip-vit-large-patch14', 303_966_208)]
)
def test_image_encoders_have_the_published_number_of_parameters(name, published):
  module = clip_image.ClipImage(clip_image.PUBLISHED[name])
  assert count(parameter_shapes(module, (1, 224, 224, 3))) == published


def test_c3d_from_pixels_to_logits_and_the_recorded_hashes(narrow_networks, weight_files, golden):
  """Covers resizing, channel order, mean clip, pools and the reordering of fc6, through the function metrics use."""
  extractor = features.load('c3d', str(weight_files['c3d']))
  made = extractor.apply(np.concatenate((golden['clips'], golden['clips'][:, ::-1], golden['clips'])))
  scale = np.abs(golden['c3d/logits']).max()
  for row in (0, 2):
    np.testing.assert_allclose(made.logits[row], golden['c3d/logits'], atol=1e-5 * scale)
    np.testing.assert_allclose(
      made.pool[row][np.linspace(0, 42, 24).astype(int)], golden['c3d/fc7'], atol=1e-5 * np.abs(golden['c3d/fc7']).max()
    )
  assert np.abs(made.logits[1] - made.logits[0]).max() > 0.1 * scale
  files = [sha256(weight_files['c3d'].with_name(name)) for name in ('c3d_ucf101.pt', 'mean2.npz')]
  assert extractor.weights == f'{files[0]} (read by names), mean {files[1]}'
  assert (extractor.name, extractor.min_frames, extractor.max_frames) == ('c3d', 16, 16)


def test_c3d_needs_its_mean_clip(narrow_networks, weight_files, tmp_path):
  path = tmp_path / 'c3d.pt'
  path.write_bytes(weight_files['c3d'].read_bytes())
  with pytest.raises(FileNotFoundError, match=f"'c3d' need mean2.npz .* {tmp_path}/mean2.npz does not exist. Download"):
    features.load('c3d', str(path))
  np.savez(tmp_path / 'mean2.npz', mean=np.zeros((3, 16, 112, 112), np.float32))
  with pytest.raises(ValueError, match=r'mean2.npz has no floats `mean` of shape \(3, 16, 128, 171\). Download '):
    features.load('c3d', str(path))


def test_a_known_file_is_recorded_by_name_and_refused_by_other_networks(narrow_networks, weight_files, monkeypatch):
  path = weight_files['i3d']
  recorded = sha256(path)
  monkeypatch.setitem(convolutional.KNOWN, recorded, ('i3d', 'the file of a project'))
  assert convolutional.load_params('i3d', convolutional.PUBLISHED['i3d'].module(width=1), path)[1] == (
    f'{recorded} (the file of a project, read by names)'
  )
  with pytest.raises(ValueError, match=f"^{path} is the file of a project, which has no weights of 'c3d'. Download "):
    features.load('c3d', str(path))


def test_a_file_of_another_network_is_refused_with_what_to_download(narrow_networks, weight_files):
  path = weight_files['i3d']
  message = rf"^{path} .* 'inception': there is no tensor of shape \(1, 3, 3, 3\) for its layer Conv2d_1a_3x3"
  with pytest.raises(ValueError, match=f'{message}.*Download pt_inception.*pytorch-fid.*StyleGAN2-ADA'):
    features.load('inception', str(path))


def test_an_absent_file_is_named_with_the_project_that_publishes_it():
  message = "'i3d' need weights, but 'weights/i3d.pt' is not a file. .*i3d_torchscript.pt, .*StyleGAN-V .*VideoGPT"
  with pytest.raises(FileNotFoundError, match=message):
    features.load('i3d', 'weights/i3d.pt')
  message = "'clip-vit-base-patch32' .*openai/clip-vit-base-patch32.*'clip' has no model.safetensors, config.json, tok"
  with pytest.raises(FileNotFoundError, match=message):
    features.load_text_encoder('clip-vit-base-patch32', 'clip')


@pytest.mark.parametrize(('path', 'seed'), [(None, None), ('i3d.pt', 0)])
def test_weights_are_read_from_a_file_or_drawn_from_a_seed_but_not_both(path, seed):
  with pytest.raises(ValueError, match='either the path of their weights .* or a seed'):
    features.load('i3d', path, seed=seed)


def test_unknown_networks_are_refused_with_the_closest_name():
  with pytest.raises(ValueError, match="feature network='inceptionv3' .*Did you mean 'inception'"):
    features.load('inceptionv3', None, seed=0)
  with pytest.raises(ValueError, match="'i3d' has no text encoder: .*clip-vit-base-patch32, clip-vit-large-patch14"):
    features.load_text_encoder('i3d', None, seed=0)


def test_stand_ins_are_labeled_and_reproducible(narrow):
  shapes = convolutional.shapes('c3d', narrow['c3d']())
  one, again, other = (random_params(shapes, seed) for seed in (3, 3, 4))
  for path, value in one.items():
    np.testing.assert_array_equal(value, again[path])
    assert path[-1] == 'bias' or (value != other[path]).mean() > 0.99
  assert one['fc6', 'kernel'].std() == pytest.approx(np.sqrt(2 / 80), rel=0.05)
  assert features.load('c3d', None, seed=3, width=1 / 96).weights == 'random:3 width 0.0104167'
  text = features.load_text_encoder('clip-vit-base-patch32', None, seed=3)
  assert text.weights == 'random:3'
  a, b, c = text.apply(['a cat', 'a dog', 'a cat'])
  np.testing.assert_array_equal(a, c)
  assert abs(np.corrcoef(a, b)[0, 1]) < 0.2
  with pytest.raises(ValueError, match='width at 1'):
    features.load('clip-vit-base-patch32', None, seed=0, width=0.5)


def test_both_encoders_of_a_clip_read_one_folder(narrow_networks, golden, tmp_path):
  """The image encoder's file is a whole CLIP's; the text encoder says what else its folder lacks."""
  (tmp_path / 'model.safetensors').write_bytes((FIXTURES / 'clip_vision.safetensors').read_bytes())
  extractor = features.load('clip-vit-base-patch32', str(tmp_path))
  recorded = sha256(tmp_path / 'model.safetensors')
  assert extractor.weights == f'{recorded} (read by names)'
  made = extractor.apply(golden['clips'][:, :2])
  assert made.logits is None
  np.testing.assert_allclose(made.pool[0], golden['clip/projected'], atol=1e-5, rtol=0)
  with pytest.raises(FileNotFoundError, match='has no config.json, tokenizer.json$'):
    features.load_text_encoder('clip-vit-base-patch32', str(tmp_path))


def test_a_clip_without_an_image_encoder_is_refused(tmp_path):
  tensors = load_file(FIXTURES / 'clip_vision.safetensors')
  projection = tensors.pop('visual_projection.weight')
  save_file(tensors, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=f'^{tmp_path} has no tensor visual_projection.weight'):
    clip_image.load_params('tiny', TINY_CLIP, str(tmp_path))
  save_file(tensors | {'visual_projection.weight': projection.T.copy()}, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=r'tensor visual_projection.weight is F32 of shape \(8, 12\), but tiny has'):
    clip_image.load_params('tiny', TINY_CLIP, str(tmp_path))


def test_names_are_the_documented_ones():
  documented = re.findall(r'^([a-z][\w-]+) {2,}', features.__doc__, re.MULTILINE)
  assert documented == ['name', *NAMES]
