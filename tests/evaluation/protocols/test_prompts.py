"""Shipped prompt files: complete, unique, clean, and in the package."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from vdm_jax.evaluation.protocols import prompts

# Class names of UCF101 at both ends of the list, and where alphabetical order depends on who sorts.
PLACES = {
  'ApplyEyeMakeup': 0,
  'BlowDryHair': 12,
  'BlowingCandles': 13,
  'Hammering': 34,
  'HammerThrow': 35,
  'JumpingJack': 46,
  'JumpRope': 47,
  'YoYo': 100,
}


def test_every_class_of_ucf101_has_its_own_prompt():
  classes = prompts.groups('ucf101')
  assert len(classes) == len(set(prompts.read('ucf101'))) == 101
  assert all(len(sentences) == 1 for sentences in classes.values())
  assert list(classes) == sorted(classes, key=_spelled)
  assert {name: list(classes).index(name) for name in PLACES} == PLACES


def _spelled(name: str) -> str:
  """Sort key of classInd.txt, which ignores case, with two exceptions."""
  return {'BlowDryHair': 'blowb', 'HammerThrow': 'hammeringz', 'JumpRope': 'jumpingz'}.get(name, name.lower())


# Classes whose prompt shares no stem with their name.
RENAMED = {
  'Archery': 'bow',
  'Biking': 'bicycle',
  'CricketShot': 'batting',
  'FloorGymnastics': 'gymnast',
  'PoleVault': 'bar',
  'Punch': 'boxing',
  'Nunchucks': 'nunchuck',
  'MilitaryParade': 'soldiers',
  'BlowDryHair': 'dryer',
  'Skijet': 'jetski',
}


def test_a_prompt_belongs_to_its_class():
  """In a list shifted by one, most classes would have the prompt of another class."""
  for name, (sentence,) in prompts.groups('ucf101').items():
    letters = ''.join(filter(str.isalpha, sentence.lower()))
    stems = [RENAMED[name]] if name in RENAMED else _stems(name)
    assert any(stem in letters for stem in stems), (name, sentence)


def _stems(name: str) -> list[str]:
  words = ''.join(f' {c}' if c.isupper() else c for c in name).lower().split()
  return [word[:4].removesuffix('e') for word in words if word not in ('in', 'and', 'on', 'playing', 'do')]


@pytest.mark.parametrize('name', prompts.NAMES)
def test_prompts_are_clean_and_unique(name):
  found = prompts.read(name)
  assert found and len(set(found)) == len(found)
  for prompt in found:
    assert prompt and prompt == ' '.join(prompt.split()) and prompt.isprintable() and '{' not in prompt
  assert found == tuple(prompt for group in prompts.groups(name).values() for prompt in group)


def test_novel_views_are_every_template_with_every_object():
  circling, orbiting, moving = prompts.groups('novel_views').values()
  assert [p.replace('circling', 'orbiting') for p in circling] == list(orbiting)
  assert [p.replace('circling', 'moving') for p in circling] == list(moving)
  assert all(p.startswith('Camera circling around a ') for p in circling)


def test_all_limitations_that_a_prompt_can_provoke_are_probed():
  assert set(prompts.groups('failure_probes')) == {
    'text rendering',
    'object count',
    'positional understanding',
    'stylization',
    'negation',
    'block artifacts',
  }


def test_unknown_names_are_refused_with_the_valid_ones():
  with pytest.raises(ValueError, match="prompts='ucf' .*diversity, failure_probes, novel_views, ucf101"):
    prompts.read('ucf')
  with pytest.raises(ValueError, match='prompts='):
    prompts.groups('../prompts/ucf101')


def test_the_files_are_in_the_package():
  setup = configparser.ConfigParser()
  repository = Path(__file__).resolve().parents[3]
  setup.read(repository / 'setup.cfg')
  patterns = setup['options.package_data']['vdm_jax'].split(',')
  files = {path for pattern in patterns for path in (repository / 'vdm_jax').glob(pattern.strip())}
  assert set(prompts.FOLDER.glob('*.json')) <= files
