"""The models of the package: each matches its card and generates what it is asked for."""

from __future__ import annotations

import json
import re
import shutil

import jax
import numpy as np
import pytest

import vdm_jax
from vdm_jax import checkpoints, configuration, evaluation, generation, models, pretrained
from vdm_jax.errors import ExitStatus
from vdm_jax.pretrained import __main__ as publisher
from vdm_jax.runtime.hashing import sha256

NAMES = pretrained.names()


def test_there_are_models():
  assert 'digits' in NAMES


@pytest.mark.parametrize('name', NAMES)
def test_figures_in_the_limits_of_a_card_are_its_scores(name):
  card = pretrained.card(name)

  def figures(scores):
    for value in scores.values():
      yield from figures(value) if isinstance(value, dict) else [value] if isinstance(value, float) else []

  measured = list(figures(card['scores']))
  said = re.findall(r'\d+\.\d+', card['limits'].replace('(chance is 0.1)', ''))
  assert len(said) >= 2
  for figure in said:
    digits = len(figure.split('.')[1])
    assert any(f'{value:.{digits}f}' == figure for value in measured), figure


@pytest.mark.parametrize('name', NAMES)
def test_a_model_matches_its_card(name):
  card, run = pretrained.card(name), vdm_jax.Run(pretrained.PREFIX + name)
  assert sha256(run.path) == card['sha256']
  assert run.path.stat().st_size < 8e6
  config = run.config
  configuration.validate(config)
  model, params = run.load()
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == card['parameters']
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
  assert [*model.video_shape] == card['video']
  assert run.step == card['step'] == config['training']['num_steps']
  assert config['seed'] == card['seed']
  assert run.exists and card['license'] and card['data']
  assert card['scores'] and all(scores['run'] == run.name for scores in card['scores'].values())
  assert card['limits'].endswith('.') and (card['commit'] or 'commit' in card['limits'])
  assert card['command'].startswith(f'python -m vdm_jax.main --config=configs/{name}.py')
  assert not (first := config['training']['first_stage']) or first.removeprefix(pretrained.PREFIX) in NAMES


def test_the_digits_model_follows_its_prompts():
  run = vdm_jax.Run('pretrained:digits')
  model, params = run.load()
  generate = generation.make_generator(model, {**run.config['sampling'], 'num_steps': 16}, batch_size=32)
  prompts = [f'a {digit} moving {direction}' for digit, direction in zip(range(10), 5 * ('left', 'down'), strict=True)]
  scores = evaluation.score(np.asarray(generate(params, prompts=prompts, seed=0)), prompts)
  assert scores['digit'] >= 0.9 and scores['direction'] >= 0.9


def test_an_unknown_name_is_an_error_with_the_closest():
  with pytest.raises(ValueError, match="pretrained model='digitz' .* 'digits'"):
    vdm_jax.load('pretrained:digitz')


def test_a_damaged_file_is_not_loaded(tmp_path, monkeypatch):
  for suffix in ('.json', pretrained.SUFFIX):
    shutil.copy(pretrained.FOLDER / f'digits{suffix}', tmp_path)
  monkeypatch.setattr(pretrained, 'FOLDER', tmp_path)
  content = bytearray((tmp_path / 'digits.safetensors').read_bytes())
  content[-1] ^= 1
  (tmp_path / 'digits.safetensors').write_bytes(content)
  with pytest.raises(ValueError, match=r'digits\.safetensors is damaged: its SHA-256 is [0-9a-f]{64}'):
    vdm_jax.load('pretrained:digits')


@pytest.fixture
def run(tmp_path):
  """A run as training leaves it, with random weights."""
  workdir = tmp_path / 'run'
  workdir.mkdir()
  config = configuration.default()
  config.data.update(num_frames=2, height=8, width=8, channels=1)
  config.model.update(
    base_channels=8,
    channel_multipliers=(1,),
    num_blocks=1,
    attention_resolutions=(),
    head_width=8,
    embedding_width=8,
    embedding_layers=1,
    norm_groups=2,
  )
  (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
  environment = {'git_commit': 'abc', 'versions': {'jax': '1'}, 'devices': {'count': 1}}
  (workdir / 'env.json').write_text(json.dumps(environment))
  params = jax.jit(models.build(config.model.to_dict()).init)(jax.random.key(5))
  with checkpoints.Checkpointer(workdir, 1) as checkpointer:
    checkpointer.save(12, {'ema': jax.tree.map(lambda x: x + 1, params)})
  return workdir


def test_a_run_is_published_and_its_scores_added_to_the_card(run, tmp_path, monkeypatch, capsys):
  folder = tmp_path / 'pretrained'
  folder.mkdir()
  monkeypatch.setattr(pretrained, 'FOLDER', folder)
  assert publisher.main([f'--workdir={run}', '--name=tiny']) == ExitStatus.INVALID_INPUT
  assert '--limits is missing' in capsys.readouterr().err
  assert not list(folder.iterdir())
  assert publisher.main([f'--workdir={run}', '--name=tiny', '--limits=It was not trained.']) == 0
  assert pretrained.names() == ('tiny',)
  _, exact = vdm_jax.load(run)
  _, shipped = vdm_jax.load('pretrained:tiny')
  for whole, half in zip(jax.tree.leaves(exact), jax.tree.leaves(shipped), strict=True):
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, whole, rtol=2**-11, atol=2**-25)
    np.testing.assert_array_equal(half, np.asarray(whole).astype(np.float16))
  scores = tmp_path / 'scores.json'
  scores.write_text(json.dumps({'run': 'pretrained:tiny', 'protocol': 'digits', 'digit': 0.5}))
  assert publisher.main(['--name=tiny', f'--scores={scores}']) == 0
  card = pretrained.card('tiny')
  assert card['step'] == 12 and card['commit'] == 'abc' and card['scores']['digits']['digit'] == 0.5
  assert card['limits'] == 'It was not trained.'
  assert publisher.main(['--name=tiny', f'--scores={scores}', '--limits=It reads 0.50.']) == 0
  assert pretrained.card('tiny') == card | {'limits': 'It reads 0.50.'}
  record = {'run': 'pretrained:tiny', 'protocol': 'digits', 'stages': [{'hash': 'of other weights of this name'}]}
  scores.write_text(json.dumps(record))
  assert publisher.main(['--name=tiny', f'--scores={scores}']) == ExitStatus.INVALID_INPUT
  assert f'{scores} was measured with other weights than tiny has now' in capsys.readouterr().err
  scores.write_text(json.dumps({'run': 'runs/other', 'protocol': 'digits'}))
  assert publisher.main(['--name=tiny', f'--scores={scores}']) == ExitStatus.INVALID_INPUT
  assert f"{scores} was measured on 'runs/other', not on pretrained:tiny." in capsys.readouterr().err


def test_values_beyond_half_precision_are_rejected(run, tmp_path):
  _, params = vdm_jax.load(run)
  huge = jax.tree.map(lambda x: x * 1e6, params)
  with checkpoints.Checkpointer(run, 1) as checkpointer:
    checkpointer.save(13, {'ema': huge})
  with pytest.raises(ValueError, match='not finite in float16'):
    vdm_jax.export_weights(run, tmp_path / 'weights.safetensors', dtype='float16')
  with pytest.raises(ValueError, match="dtype='int8'"):
    vdm_jax.export_weights(run, tmp_path / 'weights.safetensors', dtype='int8')
  assert not list(tmp_path.glob('weights*'))
