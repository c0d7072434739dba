"""References made from the code are complete: every key, flag, experiment, model and public package."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from vdm_jax import configuration, evaluation, models, pretrained

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / 'docs'
# Packages that outside code imports; each has a page.
PUBLIC = (
  'data',
  'diffusion',
  'evaluation',
  'generation',
  'models',
  'networks',
  'sampling',
  'text',
  'training',
  'types',
  'video',
)
# Flags of the command line that outside code relies on.
FLAGS = (
  'mode',
  'workdir',
  'pretrained',
  'prompt',
  'prompt_file',
  'num_videos',
  'num_frames',
  'init_video',
  'interpolate',
)
FLAGS += ('fps', 'original_size', 'label', 'out', 'protocol', 'sweep', 'real_vs_real', 'topology', 'seed')


def generator(name: str) -> ModuleType:
  spec = importlib.util.spec_from_file_location(f'generators_{name}', DOCS / 'generators' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def rows(markdown: str) -> dict[str, str]:
  """First cell, without marks of code and links -> the rest of the row, for every table."""
  found = {}
  for line in markdown.splitlines():
    if match := re.fullmatch(r'\| \[?`([^`]+)`(?:\]\([^)]*\))? \|(.*)\|', line):
      found[match[1]] = match[2]
  return found


@pytest.mark.parametrize('network', models.NETWORKS)
def test_every_configuration_key_has_a_meaning(network):
  keys = generator('configuration_keys')
  # Networks may share names of fields, so that each is looked up in its own table.
  own = keys.network_table(network, configuration.default(network).to_dict())
  table = rows(keys.reference()) | rows(own)
  missing = [key for key in keys.keys(network) if key not in table]
  assert not missing
  silent = [key for key in keys.keys(network) if not table[key].split(' | ', 1)[1].strip()]
  assert not silent, (
    f'{silent} have no meaning: describe the fields of a network in the `Attributes:` block of the docstring of its '
    f'class, here {models.NETWORKS[network].__name__}, and comment other keys where configuration.py defines them'
  )


def test_the_configuration_page_says_how_each_key_may_change():
  """Against `change_of`, which decides it when a run resumes, and keys known by name."""
  keys = generator('configuration_keys')
  shown = {
    configuration.Change.FREE: 'free',
    configuration.Change.ALLOWED: '`--allow_change`',
    configuration.Change.REFUSED: 'new run',
  }
  page = {key: row.rsplit(' | ', 1)[1].strip() for key, row in rows(keys.reference()).items()}
  assert page == {key: shown[configuration.change_of(key)] for key in page}
  assert page['training.num_steps'] == page['mesh.fsdp'] == 'free'
  assert page['training.learning_rate'] == page['seed'] == '`--allow_change`'
  assert page['data.height'] == page['model.base_channels'] == 'new run'


def test_every_flag_is_listed():
  table = rows(generator('commands').flag_table('vdm_jax.main'))
  assert {f'--{flag}' for flag in FLAGS} <= set(table)
  assert all(row.split(' | ', 1)[1].strip() for row in table.values()), 'a flag has no help'


def test_every_model_and_experiment_is_listed():
  tables = generator('models')
  assert set(pretrained.names()) == set(rows(tables.zoo()))
  experiments = {path.stem for path in (REPOSITORY / 'configs').glob('*.py') if path.name != '__init__.py'}
  listed = set(rows(tables.configurations()))
  assert listed <= experiments
  assert {
    name for name in experiments if (REPOSITORY / 'configs' / f'{name}.py').read_text().startswith('"""')
  } >= listed
  assert len(listed) >= 19
  assert set(evaluation.PROTOCOLS) == set(rows(tables.protocols()))


def test_the_hardware_table_has_every_report():
  hardware = generator('hardware')
  lines = [line for line in hardware.table().splitlines() + hardware.levers().splitlines() if line.startswith('| ')]
  levers_of_others = sum(
    entry['why'] == hardware.LEVER and not name.startswith('snap_fit_500m')
    for name, entry in hardware.reports().items()
  )
  assert len(lines) == len(hardware.reports()) - levers_of_others + 2


@pytest.mark.parametrize('name', PUBLIC)
def test_every_public_package_has_a_page(name):
  assert f'::: vdm_jax.{name}\n' in (DOCS / 'reference' / f'{name}.md').read_text(encoding='utf-8')
  assert f'reference/{name}.md' in (REPOSITORY / 'mkdocs.yml').read_text(encoding='utf-8')


def test_pages_ask_for_tables_and_figures_that_exist():
  source = (DOCS / 'generators' / 'hooks.py').read_text(encoding='utf-8')
  known = set(re.findall(r"^  '(\w+)': \w+\.\w+,$", source, re.MULTILINE))
  figures = generator('figures').figures()
  for path in DOCS.rglob('*.md'):
    text = path.read_text(encoding='utf-8')
    assert set(re.findall(r'<!-- generated: (\w+) -->', text)) <= known, path
    assert set(re.findall(r'<!-- figure: (\d+): ', text)) <= set(figures), path
