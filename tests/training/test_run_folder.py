"""The folder of a run: its configuration and its environment."""

from __future__ import annotations

import json
import re

import pytest
from helpers.standin import make_config

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
  assert (
    str(error.value).splitlines()[1:-1]
    == (
      '  data.batch_size: 8 in the workdir, 16 now\n'
      '  model.dropout: 0.0 in the workdir, absent now\n'
      '  model.width: absent in the workdir, 32 now\n'
      '  training.learning_rate: 0.01 in the workdir, 0.5 now\n'
      '  training.optimizer: "adam" in the workdir, "lamb" now'
    ).splitlines()
  )


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
