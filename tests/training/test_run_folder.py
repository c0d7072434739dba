"""The folder of a run: its configuration and its environment."""

from __future__ import annotations

import json
import re

import pytest
from helpers.standin import make_config

from vdm_jax.configuration import changes
from vdm_jax.runs import Run
from vdm_jax.training import run_folder


def test_a_workdir_that_is_not_writable_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match=f'--workdir={tmp_path}/file/run is not writable .Not a directory.'):
    run_folder.prepare(tmp_path / 'file' / 'run')
  with pytest.raises(ValueError, match='--workdir=gs://bucket/run is a URL'):
    run_folder.prepare('gs://bucket/run')


def test_the_same_configuration_and_allowed_changes_pass(tmp_path):
  config = make_config()
  run_folder.check_same_run(tmp_path, config)
  run_folder.write_config(tmp_path, config)
  run_folder.check_same_run(tmp_path, config)
  config.training.update(num_steps=1000, checkpoint_every=7, preview_every=3, heldout_every=5)
  config.training.update(keep_checkpoints=9, tensorboard=True)
  config.sampling.num_steps = 99
  config.mesh.fsdp = 8
  config.data.path = '/elsewhere'
  run_folder.check_same_run(tmp_path, config)
  run_folder.write_config(tmp_path, config)
  assert json.loads((tmp_path / 'config.json').read_text()) == config.to_dict()


def test_another_configuration_is_refused_with_the_settings_that_differ(tmp_path):
  run_folder.write_config(tmp_path, make_config())
  config = make_config(learning_rate=0.5, optimizer='lamb', num_steps=99)
  config.data.batch_size = 16
  config.model = {'network': 'standin', 'height': 4, 'pad_rows': 0}
  config.model.width = 32
  with pytest.raises(ValueError) as error:
    run_folder.check_same_run(tmp_path, config)
  lines = str(error.value).splitlines()
  assert lines[1:6] == [  # those that make another model come first
    '  model.width: absent in the workdir, 32 now',
    '  training.optimizer: "adam" in the workdir, "lamb" now',
    '  data.batch_size: 8 in the workdir, 16 now',
    '  model.dropout: 0.0 in the workdir, absent now',
    '  training.learning_rate: 0.01 in the workdir, 0.5 now',
  ]
  assert 'training.first_stage' in lines[6]


def test_settings_of_the_same_model_change_with_the_flag_and_are_recorded(tmp_path):
  run_folder.write_config(tmp_path, make_config())
  config = make_config(learning_rate=0.5, log_every=2, num_steps=99)
  with pytest.raises(ValueError, match='learning_rate: 0.01 in the workdir, 0.5 now\nPass --allow_change'):
    run_folder.check_same_run(tmp_path, config)
  changed = run_folder.check_same_run(tmp_path, config, allow_change=True)
  assert [different.key for different in changed] == [
    'training.learning_rate',
    'training.log_every',
    'training.num_steps',
  ]
  for _ in range(2):  # killed after the history and before config.json: the same change comes again
    run_folder.record_changes(tmp_path, 7, changed)
  row = {'step': 7, 'key': 'training.learning_rate', 'before': 0.01, 'after': 0.5}
  assert history(tmp_path)[0] == row and len(history(tmp_path)) == 3
  with open(tmp_path / 'config_history.jsonl', 'a') as file:
    file.write('{"step": 9, "ke')  # a full disk
  with pytest.warns(UserWarning, match='config_history.jsonl, line 4'):
    run_folder.record_changes(tmp_path, 6, changed[:1])  # the checkpoint of step 7 was damaged
  assert [row['step'] for row in history(tmp_path)] == [6, 6, 6, 6]


def history(workdir):
  return [json.loads(line) for line in (workdir / 'config_history.jsonl').read_text().splitlines()]


def test_batches_of_another_size_go_on_where_those_before_ended(tmp_path):
  assert run_folder.example_offset(tmp_path, 8) == 0
  for step, before, after in ((10, 8, 4), (14, 4, 32), (20, 32, 32)):
    changed = changes.differences({'data': {'batch_size': before}}, {'data': {'batch_size': after}})
    run_folder.record_changes(tmp_path, step, changed)
  # 10 steps of 8 and 4 of 4: step 14 begins with example 96, and 14 * 32 = 448.
  assert 14 * 32 + run_folder.example_offset(tmp_path, 32) == 10 * 8 + 4 * 4


def test_a_tuple_equals_its_list_in_json(tmp_path):
  config = make_config()
  config.model.widths = (1, 2)
  run_folder.write_config(tmp_path, config)
  run_folder.check_same_run(tmp_path, config)


def test_checkpoints_without_a_configuration_are_refused(tmp_path):
  (tmp_path / 'checkpoints' / '7').mkdir(parents=True)
  with pytest.raises(ValueError, match=f'{tmp_path} has checkpoints but no config.json'):
    run_folder.check_same_run(tmp_path, make_config())


def test_the_environment_names_versions_devices_and_commit(tmp_path):
  run_folder.write_environment(tmp_path)
  environment = json.loads((tmp_path / 'env.json').read_text())
  assert len(environment['run_id']) == 16
  assert re.match(r'\d+\.\d+', environment['versions']['jax'])
  assert environment['devices']['platform'] == 'cpu'
  assert environment['git_commit'] is None or re.fullmatch('[0-9a-f]{40}', environment['git_commit'])
  assert [path.name for path in tmp_path.iterdir()] == ['env.json']


def test_a_run_keeps_its_identity_until_it_is_begun_anew(tmp_path):
  identities = []
  for step in (None, 7, None):
    for _ in range(2):
      run_folder.write_environment(tmp_path)
      identities.append(Run(tmp_path).run_id)
    if step:
      (tmp_path / 'checkpoints').rename(tmp_path / 'moved')
    else:
      (tmp_path / 'checkpoints/7').mkdir(parents=True)
  assert identities[1] == identities[2] == identities[3] and len(set(identities)) == 4
