"""Every number of VDM's appendix A stands in a configuration, and every configuration is one that can be built."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import jax
import pytest

from vdm_jax import configuration, data, models

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'

# Appendix A.1 to A.4, with the displaced columns of A.4 put back; parameters by abstract evaluation.
COLUMNS = (
  'model.base_channels', 'model.channel_multipliers', 'model.num_blocks', 'model.attention_resolutions',
  'model.head_width', 'model.embedding_width', 'model.embedding_layers', 'model.dropout', 'model.parameterization',
  'data.num_frames', 'data.height', 'data.width', 'data.frame_skip', 'data.num_images', 'data.batch_size', 'data.flip',
  'data.text', 'training.beta1', 'training.beta2', 'training.learning_rate', 'training.weight_decay',
  'training.ema_decay', 'training.num_steps', 'sampling.num_steps', 'sampling.langevin_delta', 'sampling.gamma',
  'sampling.reconstruction_weight', 'parameters',
)  # fmt: skip
WIDE, RESOLUTIONS = (1, 2, 4, 8), (8, 16, 32)
BERT = 'bert-large'
PAPER = {
  'ucf101.py': (
    256, WIDE, 2, RESOLUTIONS, 64, 1024, 4, 0.1, 'eps', 16, 64, 64, 1, 8, 128, False, 'none',
    0.9, 0.99, 3e-4, 0.0, 0.9999, 60_000, 256, 0.0, 0.1, 0.0, 1_240_723_459,
  ),
  'bair.py': (
    128, (1, 2, 3, 4), 3, RESOLUTIONS, 64, 1024, 2, 0.1, 'v', 16, 64, 64, 1, 8, 128, True, 'none',
    0.9, 0.999, 2e-4, 0.01, 0.999, 660_000, 256, 0.1, 0.0, 50.0, 158_760_195,
  ),
  'kinetics600.py': (
    256, WIDE, 2, RESOLUTIONS, 64, 1024, 2, 0.1, 'v', 16, 64, 64, 1, 8, 256, False, 'none',
    0.9, 0.99, 2e-4, 0.0, 0.9999, 220_000, 128, 0.1, 0.0, 9.0, 1_238_624_259,
  ),
  't2v_small.py': (
    128, WIDE, 2, RESOLUTIONS, 64, 1024, 4, 0.0, 'eps', 16, 64, 64, 1, 8, 128, False, BERT,
    0.9, 0.99, 3e-4, 0.0, 0.9999, 200_000, 256, 0.0, 0.3, 0.0, 331_664_387,
  ),
  't2v_small.py:images4': (
    128, WIDE, 2, RESOLUTIONS, 64, 1024, 4, 0.0, 'eps', 16, 64, 64, 1, 4, 128, False, BERT,
    0.9, 0.99, 3e-4, 0.0, 0.9999, 200_000, 256, 0.0, 0.3, 0.0, 331_664_387,
  ),
  't2v_small.py:images0': (
    128, WIDE, 2, RESOLUTIONS, 64, 1024, 4, 0.0, 'eps', 16, 64, 64, 1, 0, 128, False, BERT,
    0.9, 0.99, 3e-4, 0.0, 0.9999, 200_000, 256, 0.0, 0.3, 0.0, 331_664_387,
  ),
  't2v_large.py': (
    256, WIDE, 2, RESOLUTIONS, 64, 1024, 4, 0.0, 'eps', 16, 64, 64, 1, 8, 128, False, BERT,
    0.9, 0.99, 3e-4, 0.0, 0.9999, 700_000, 256, 0.0, 0.3, 0.0, 1_244_921_859,
  ),
  't2v_large.py:skip4': (
    256, WIDE, 2, RESOLUTIONS, 64, 1024, 4, 0.0, 'eps', 16, 64, 64, 4, 8, 128, False, BERT,
    0.9, 0.99, 3e-4, 0.0, 0.9999, 700_000, 256, 0.0, 0.3, 0.0, 1_244_921_859,
  ),
  't2v_large_9x128.py': (
    128, (1, 2, 4, 8, 16), 2, RESOLUTIONS, 128, 1024, 4, 0.0, 'eps', 9, 128, 128, 1, 7, 128, False, BERT,
    0.9, 0.99, 2e-4, 0.0, 0.9999, 800_000, 256, 0.0, 0.3, 0.0, 1_249_959_939,
  ),
}  # fmt: skip


def load(name: str):
  file, *variant = name.split(':')
  spec = importlib.util.spec_from_file_location(file.removesuffix('.py'), CONFIGS / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*variant)


def count(config) -> int:
  """Parameters of the configuration's network; a stand-in for BERT, whose files are not needed for shapes."""
  with config.unlocked():
    config.model.text = 'none'
  model = models.build(config.model)
  if config.data.text == BERT or config.data.text_path:
    model = model._replace(
      module=model.module.clone(takes_text=True), config=model.config | {'text': BERT}, encode=lambda captions: None
    )
  return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


@pytest.mark.parametrize('name', PAPER)
def test_numbers_of_appendix_a(name):
  config = load(name)
  configuration.validate(config)
  expected = dict(zip(COLUMNS, PAPER[name], strict=True))
  found = {}
  for column in COLUMNS[:-1]:
    section, key = column.split('.')
    found[column] = config[section][key]
  assert found | {'parameters': count(config)} == expected
  assert config.model.process == 'variance_preserving' and config.model.logsnr == 'cosine'
  assert (config.model.logsnr_min, config.model.logsnr_max) == (-20.0, 20.0)
  assert config.training.optimizer == 'adam'


@pytest.mark.parametrize('file', sorted(CONFIGS.glob('*.py')), ids=lambda file: file.stem)
def test_a_docstring_is_a_model_card(file):
  doc = ast.get_docstring(ast.parse(file.read_text()))
  assert f'python -m vdm_jax.main --config=configs/{file.name} --workdir=runs/{file.stem}' in doc
  config = load(file.name)
  configuration.validate(config)
  if config.data.text != 'words':
    assert f'{count(config):,}' in doc


def test_the_readme_model():
  config = load('digits.py')
  model = models.build(configuration.resolve(config, data.vocabulary(config.data)).model)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
  assert f'{parameters:,} parameters' in ast.get_docstring(ast.parse((CONFIGS / 'digits.py').read_text()))


@pytest.mark.parametrize('name', ['t2v_large.py:skip9', 't2v_small.py:images9'])
def test_an_unknown_variant_is_refused(name):
  with pytest.raises(ValueError, match=f'{name} is unknown: choose one of '):
    load(name)
