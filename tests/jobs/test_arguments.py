"""Settings that a configuration leaves open are those of the run that is resumed."""

from __future__ import annotations

import json

from vdm_jax import configuration
from vdm_jax.jobs import arguments
from vdm_jax.runs import Run


def test_a_resumed_run_keeps_what_it_was_made_with(tmp_path):
  saved = configuration.to_dict(configuration.default())
  del saved['data']['word_rule'], saved['model']['word_rule']  # as an earlier version wrote it
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  config = configuration.default()
  arguments.adopt(config, Run(tmp_path))
  assert config.data.word_rule == config.model.word_rule == 'whitespace'
  config = configuration.default()
  config.data.word_rule = 'unicode'  # chosen, so that the difference is an error
  arguments.adopt(config, Run(tmp_path))
  assert config.data.word_rule == 'unicode'


def test_a_new_or_damaged_run_changes_nothing(tmp_path):
  for content in (None, '{'):
    if content:
      (tmp_path / 'config.json').write_text(content)
    config = configuration.default()
    arguments.adopt(config, Run(tmp_path))
    assert config.data.word_rule == ''
