"""Notebooks match their sources and were run completely; their code runs at tiny sizes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers.tiny_networks import draw

import vdm_jax
from vdm_jax import checkpoints, configuration, models, pretrained, weights
from vdm_jax.data.sources import digits
from vdm_jax.tools import doctor
from vdm_jax.video import read_video

FOLDER = Path(__file__).resolve().parents[2] / 'launch' / 'colab'
MAX_BYTES = 1.5e6
TINY_UNET = {
  'base_channels': 8,
  'channel_multipliers': (1,),
  'num_blocks': 1,
  'attention_resolutions': (),
  'head_width': 8,
  'embedding_width': 16,
  'embedding_layers': 1,
  'norm_groups': 2,
}
# Values that replace those of the cell tagged `parameters`.
SIZES = {
  'toy_2d': {'num_points': 200, 'budgets': (17, 33, 65), 'reference_points': 513, 'num_steps': 8},
  'sample_t2v': {
    'per_prompt': 1,
    'evaluated': 4,
    'long_frames': 6,
    'changes': {'num_steps': 2},
    'methods': ('reconstruction',),
  },
  'train_your_own': {
    'size': {'side': 8, 'frames': 2, 'batch': 2, 'images': 1, 'steps': 2, 'learning_rate': 1e-3, 'network': TINY_UNET}
  },
}


def _execute() -> types.ModuleType:
  spec = importlib.util.spec_from_file_location('execute_notebooks', FOLDER / 'execute.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


execute = _execute()


def source_cells(name: str) -> list:
  return execute.read_cells((FOLDER / f'{name}.py').read_text(encoding='utf-8'))


def stored(name: str) -> dict[str, Any]:
  """The notebook as committed."""
  return json.loads((FOLDER / f'{name}.ipynb').read_text(encoding='utf-8'))


def texts(output: dict[str, Any]) -> str:
  """The text of an output, without embedded files."""
  parts = [output.get('text', ''), *(v for k, v in output.get('data', {}).items() if k.startswith('text/'))]
  return re.sub(r'base64,[A-Za-z0-9+/=]*', '', '\n'.join(parts))


def test_every_notebook_has_its_source():
  assert {file.stem for file in FOLDER.glob('*.ipynb')} == set(execute.NAMES)


@pytest.mark.parametrize('name', execute.NAMES)
def test_a_notebook_matches_its_source(name):
  """If not, `python launch/colab/execute.py NAME` was not run after an edit, or the notebook itself was edited."""
  compared = ('cell_type', 'id', 'metadata', 'source')
  built = execute.notebook(source_cells(name))['cells']
  assert [[cell[key] for key in compared] for cell in stored(name)['cells']] == [
    [cell[key] for key in compared] for cell in built
  ]


@pytest.mark.parametrize('name', execute.NAMES)
def test_outputs_are_those_of_one_complete_run(name):
  code = [cell for cell in stored(name)['cells'] if cell['cell_type'] == 'code']
  assert [cell['execution_count'] for cell in code] == [*range(1, len(code) + 1)]
  outputs = [output for cell in code for output in cell['outputs']]
  assert not [output for output in outputs if output['output_type'] == 'error']
  assert any('image/png' in output.get('data', {}) or '<img' in texts(output) for output in outputs)
  printed = '\n'.join(texts(output) for output in outputs)
  assert not re.findall(r'(?:^|[\s\'"(=:])(/[a-z]\w*/\S*|[A-Z]:\\\S*)', printed), 'an absolute path'
  assert not re.findall(r'(?i)warning|traceback|https?://|src="(?!data:)', printed)
  assert (FOLDER / f'{name}.ipynb').stat().st_size < MAX_BYTES


def test_cells_are_parsed():
  header = '"""Left out."""\n\n'
  text = '# %% [markdown]\n# # Title\n#\n#   code\n\n# %% tags=["parameters"]\n\nx = 1\n\ny = 2\n\n# %%\n# z'
  assert execute.read_cells(header + text) == [
    execute.Cell('markdown', '# Title\n\n  code'),
    execute.Cell('code', 'x = 1\n\ny = 2', ('parameters',)),
    execute.Cell('code', '# z'),
  ]


def test_text_can_change_without_a_run_but_code_cannot(tmp_path, monkeypatch):
  monkeypatch.setattr(execute, 'HERE', tmp_path)
  node = execute.notebook([execute.Cell('markdown', 'old'), execute.Cell('code', 'x = 1')])
  node['cells'][1] |= {'execution_count': 1, 'outputs': ['kept']}
  (tmp_path / 'a.ipynb').write_text(json.dumps(node))
  (tmp_path / 'a.py').write_text('# %% [markdown]\n# new\n\n# %% [markdown]\n# more\n\n# %%\nx = 1\n')
  first, second, code = json.loads(execute.update_text('a').read_text())['cells']
  assert (first['source'], second['source'], code['outputs'], code['execution_count']) == ('new', 'more', ['kept'], 1)
  (tmp_path / 'a.py').write_text('# %%\nx = 2\n')
  with pytest.raises(ValueError, match='the code of a has changed'):
    execute.update_text('a')


@pytest.mark.parametrize('name', execute.NAMES)
def test_on_colab_only_the_given_source_is_installed(name, monkeypatch):
  first = next(cell.source for cell in source_cells(name) if cell.kind == 'code')
  commands = []
  monkeypatch.setitem(sys.modules, 'google.colab', types.ModuleType('google.colab'))
  monkeypatch.setattr(subprocess, 'run', lambda command, check: commands.append(command))
  with pytest.raises(ValueError, match='^repository is empty'):
    exec(first, {})
  assert commands == []
  given = first.replace("repository = ''", "repository = 'git+https://example.org/us/vdm_jax'")
  exec(given, {})
  ((*_, package),) = commands
  assert re.fullmatch(r'vdm_jax(\[(cuda12|tpu)\])? @ git\+https://example\.org/us/vdm_jax', package)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('# %% [raw]\nx', r"'# %% \[raw\]' is not a valid cell marker"),
    ('# %% [markdown]\nwords', "'words' in a markdown cell is not a comment"),
  ],
)
def test_invalid_sources_are_rejected(text, reason):
  with pytest.raises(ValueError, match=reason):
    execute.read_cells(text)


# ---- running their code --------------------------------------------------------------------------------------------


@pytest.fixture
def notebook_environment(tmp_path, monkeypatch):
  """Runs in an empty folder without showing plots; returns the list of displayed HTML."""
  shown: list[str] = []
  package, module = types.ModuleType('IPython'), types.ModuleType('IPython.display')
  package.version_info, package.get_ipython = (9, 0), lambda: None  # matplotlib asks for them
  module.HTML, module.display = str, shown.append
  monkeypatch.setitem(sys.modules, 'IPython', package)
  monkeypatch.setitem(sys.modules, 'IPython.display', module)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(plt, 'show', lambda: plt.close('all'))
  monkeypatch.setattr(matplotlib.figure.Figure, 'tight_layout', lambda figure: None)  # slow
  precision = jax.config.jax_default_matmul_precision
  with matplotlib.rc_context({'backend': 'agg'}):
    yield shown
  jax.config.update('jax_default_matmul_precision', precision)


@pytest.fixture
def least_compiler_effort():
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


def run(name: str, sizes: dict[str, Any], stop: str | None = None) -> dict[str, Any]:
  """Runs the code cells in order, up to the heading `stop` if given, and returns what they define."""
  defined: dict[str, Any] = {'__name__': '__main__'}
  for number, cell in enumerate(source_cells(name)):
    if stop is not None and cell.source.startswith(stop):
      break
    if cell.kind == 'code':
      exec(compile(cell.source, f'{name}, cell {number}', 'exec'), defined)
      defined |= sizes if 'parameters' in cell.tags else {}
  return defined


@pytest.fixture
def small_models(tmp_path, monkeypatch):
  """Untrained U-Nets under the names of the shipped models."""
  folder = tmp_path / 'pretrained'
  folder.mkdir()
  monkeypatch.setattr(pretrained, 'FOLDER', folder)
  words = ('a', 'moving', 'left', 'right', 'up', 'down', *map(str, range(10)))
  words += ('and', 'bouncing', 'slowly', 'quickly', *digits.COLORS)
  second = {'upsampling': 2, 'scalars': ('augmentation_logsnr',)}
  for name, side, channels, text, fields in (
    ('digits', 16, 1, 'words', {}),
    ('digits_long', 16, 1, 'none', {}),
    ('digits_fit', 16, 1, 'words', {}),
    ('digits_fit_upsampler', 32, 1, 'words', second),
    ('scenes', 16, 3, 'words', {}),
    ('scenes_upsampler', 32, 3, 'words', second),
  ):
    config = configuration.default()
    config.data.update(
      num_frames=4,
      height=side,
      width=side,
      channels=channels,
      text=text,
      text_length=13,
      vocabulary=words,
    )
    config.model.update(parameterization='v', **TINY_UNET, **fields)
    params = draw(jax.eval_shape(models.build(config.model).init, jax.random.key(0)))
    tensors = {key: np.asarray(value) for key, value in checkpoints.named(params).items()}
    file = folder / f'{name}{pretrained.SUFFIX}'
    weights.write(file, tensors, config.to_dict(), 1, 'float16')
    card = {'sha256': hashlib.sha256(file.read_bytes()).hexdigest(), 'parameters': 1, 'step': 1, 'command': 'none'}
    (folder / f'{name}.json').write_text(json.dumps(card))


def check_shown(shown: list[str], counts: list[int]) -> None:
  """Checks the number of videos in each piece of HTML, and that it is self-contained."""
  assert [piece.count('<img ') for piece in shown] == counts
  sources = re.findall(r'src="([^"]*)"', ''.join(shown))
  assert len(sources) == sum(counts) and all(source.startswith('data:image/gif;base64,') for source in sources)


@pytest.mark.slow
def test_the_code_of_the_toy_runs_and_its_steps_have_their_order(notebook_environment, least_compiler_effort, capsys):
  defined = run('toy_2d', SIZES['toy_2d'])
  budgets, distance = SIZES['toy_2d']['budgets'], defined['distance']
  order = {name: -np.polyfit(np.log(budgets), np.log(errors), 1)[0] for name, errors in distance.items()}
  assert 0.8 < order['ddim'] < 1.3 and 1.7 < order['heun'] < 2.5
  rows = re.findall(r'(?m)^(?:variance preserving|input scaled, sigma_in = 4) +\w+ .*', capsys.readouterr().out)
  assert len(rows) == 10
  for row in rows:
    *_, error, half, whole, more = row.split()
    assert float(error) < 1e-4 and float(whole) < min(float(half), float(more))


def test_the_code_for_prompts_and_guidance_runs(notebook_environment, least_compiler_effort, small_models):
  defined = run('sample_t2v', SIZES['sample_t2v'], stop='## A long video')
  check_shown(notebook_environment, [5, *[4] * 4])
  assert defined['made'].shape == (4, 4, 16, 16, 1)
  defined['show'](np.zeros((1, 2, 4, 4, 1)), ['<script>"'])
  assert '<script>' not in notebook_environment[-1] and '&lt;script&gt;&quot;' in notebook_environment[-1]


@pytest.mark.slow
def test_the_code_for_sampling_runs(notebook_environment, least_compiler_effort, small_models):
  defined = run('sample_t2v', SIZES['sample_t2v'])
  check_shown(notebook_environment, [5, *[4] * 4, 3, 5, 5, 4, 4])
  assert defined['small'].shape[2:] == (16, 16, 1) and defined['large'].shape[2:] == (32, 32, 1)
  assert defined['scenes'].shape[2:] == (32, 32, 3)
  assert sum(how == 'withheld' for how in defined['status']) == 2
  assert defined['long_videos'].shape == (3, 6, 16, 16, 1)
  assert read_video('out/0000.mp4').shape == (4, 128, 128, 3)


def test_the_code_before_training_runs(notebook_environment):
  defined = run('train_your_own', SIZES['train_your_own'], stop='## Training')
  assert len(defined['words']) == 96 and defined['config'].data.text_length == 5
  assert doctor.problems(defined['config'], defined['workdir']) == []


@pytest.mark.slow
def test_the_code_for_training_runs(notebook_environment, least_compiler_effort):
  defined = run('train_your_own', SIZES['train_your_own'])
  assert defined['status'] == 0 and vdm_jax.Run(defined['workdir']).step == 2
  check_shown(notebook_environment, [12])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('name', execute.NAMES)
def test_the_code_runs_at_its_sizes_for_a_cpu(name, notebook_environment):
  run(name, {})
