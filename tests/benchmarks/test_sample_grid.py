"""The grids of the README use known words, and combinations that were never trained on."""

from __future__ import annotations

import pytest

from vdm_jax import pretrained
from vdm_jax.benchmarks import sample_grid
from vdm_jax.data.sources.digits import parse_caption, withheld
from vdm_jax.runs import Run


@pytest.mark.parametrize('name', sample_grid.ROWS)
def test_every_word_of_a_prompt_is_known(name):
  words = Run(pretrained.PREFIX + name).config['model']['vocabulary']
  prompts = sample_grid.prompts(name)
  assert len(set(prompts)) == len(prompts) == 10 * len(sample_grid.ROWS[name])
  assert set(' '.join(prompts).split()) <= set(words)


def test_the_grid_of_scenes_has_withheld_combinations():
  unseen = [any(map(withheld, parse_caption(prompt))) for prompt in sample_grid.prompts('scenes_upsampler')]
  assert 4 <= sum(unseen) < len(unseen)
