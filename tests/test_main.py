"""The command line at toy size: training, resuming, sampling, evaluating, and errors in its input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import av
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.commands import REPOSITORY, vdm
from helpers.process_group import virtual
from PIL import Image

import vdm_jax
from vdm_jax import checkpoints, configuration, diffusion

TOY = {
  'model.base_channels': '8',
  'model.channel_multipliers': '(1,)',
  'model.attention_resolutions': '(8,)',
  'model.head_width': '4',
  'model.norm_groups': '4',
  'model.embedding_width': '16',
  'model.embedding_layers': '1',
  'data.num_images': '2',
  'training.num_steps': '12',
  'training.warmup_steps': '2',
  'training.log_every': '3',
  'training.checkpoint_every': '4',
  'training.preview_every': '6',
  'training.heldout_every': '6',
  'sampling.num_steps': '3',
}


def toy(workdir: Path, **overrides: str) -> list[str]:
  values = TOY | {key.replace('__', '.'): value for key, value in overrides.items()}
  return ['--config=configs/digits.py', f'--workdir={workdir}', *(f'--config.{k}={v}' for k, v in values.items())]


def refusal(*arguments: str) -> str:
  done = vdm(*arguments)
  assert done.returncode == 2, done.stderr
  assert 'Traceback' not in done.stderr
  return done.stderr.strip()


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
  """A finished toy run."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  done = vdm(*toy(workdir))
  assert done.returncode == 0, done.stderr
  return workdir


def rows(workdir: Path) -> list[dict]:
  """metrics.jsonl without the keys that differ between two equal runs."""
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{k: v for k, v in line.items() if not k.startswith(('time/', 'memory/'))} for line in lines]


def test_a_run_leaves_its_metrics_checkpoints_and_samples(run):
  assert [row['step'] for row in rows(run)] == [3, 6, 9, 12]
  assert {'train/loss', 'heldout/loss', 'heldout/loss_logsnr_-2_2'} <= rows(run)[1].keys()
  assert checkpoints.steps(run) == [8, 12]
  assert json.loads((run / 'config.json').read_text())['data']['vocabulary'] == sorted(
    ['a', 'moving', 'left', 'right', 'up', 'down', *'0123456789']
  )
  assert {'versions', 'devices'} <= json.loads((run / 'env.json').read_text()).keys()
  for step in (6, 12):
    sheet = np.asarray(Image.open(run / f'samples/step_{step:08d}.png'))
    assert sheet[:, :150].max() > 200, 'prompts are on the left'
    with av.open(str(run / f'samples/step_{step:08d}.mp4')) as file:
      assert sum(1 for _ in file.decode(video=0)) == 8


def test_the_same_command_does_nothing_more(run):
  before = (run / 'metrics.jsonl').read_bytes(), (run / 'samples/step_00000012.png').read_bytes()
  done = vdm(*toy(run))
  assert done.returncode == 0
  assert 'training.num_steps=12' in done.stderr
  assert before == ((run / 'metrics.jsonl').read_bytes(), (run / 'samples/step_00000012.png').read_bytes())


def test_sampling_writes_videos_and_warns_of_unknown_words(run, tmp_path):
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('a 5 moving up\n\n')
  done = vdm(
    '--mode=sample',
    f'--workdir={run}',
    '--prompt=a 3 moving ../sideways',
    f'--prompt_file={prompts}',
    '--num_videos=2',
    f'--out={tmp_path / "out"}',
    '--config.sampling.num_steps=4',
    '--checkpoint=8',
    '--weights=raw',
    '--seed=1',
  )
  assert done.returncode == 0, done.stderr
  (warning,) = [line for line in done.stderr.splitlines() if line.startswith('warning: ')]
  assert all(part in warning for part in ("'a 3 moving ../sideways'", "'sideways'", '8 9 a down left moving right up'))
  stems = ['0000-a-3-moving-sideways', '0001-a-3-moving-sideways', '0002-a-5-moving-up', '0003-a-5-moving-up']
  assert sorted(file.name for file in (tmp_path / 'out').iterdir()) == sorted(
    [f'{stem}.{kind}' for stem in stems for kind in ('mp4', 'gif', 'npy')]
    + ['contact_sheet.png', 'index.html', 'samples.json', 'videos.jsonl']
  )
  page = (tmp_path / 'out/index.html').read_text()
  assert f'Sampled from {run}, step 8 of 12 (raw weights), with seed 1.' in page
  assert all(f'src="./{stem}.mp4"' in page for stem in stems)


def test_class_labels_condition_as_text_does(tmp_path):
  labels = {'data__text': 'none', 'data__labels': 'True', 'training__num_steps': '4', 'training__preview_every': '0'}
  message = refusal(*toy(tmp_path / 'run', **labels))
  assert message.startswith('error: model.num_classes=0') and '--config.model.num_classes=40' in message
  done = vdm(*toy(tmp_path / 'run', **labels, model__num_classes='40'))
  assert done.returncode == 0, done.stderr
  sample = ('--mode=sample', f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "out"}')
  assert vdm(*sample, '--label=7', '--num_videos=1').returncode == 0
  assert (tmp_path / 'out/0000-class-7.mp4').exists()
  message = refusal(*sample, '--label=40')
  assert message.startswith('error: label 40 ') and '39' in message


@pytest.mark.slow
def test_four_devices_train_and_sample_as_one_does(run, tmp_path):
  done = vdm(*toy(tmp_path, mesh__fsdp='2'), env=virtual(4))
  assert done.returncode == 0, done.stderr
  assert "mesh {'data': 2, 'fsdp': 2, 'tensor': 1}" in done.stderr
  for one, four in zip(rows(run), rows(tmp_path), strict=True):
    assert one == pytest.approx(four, rel=1e-4)
  sheets = [np.asarray(Image.open(folder / 'samples/step_00000012.png'), int) for folder in (run, tmp_path)]
  assert np.abs(sheets[0] - sheets[1]).max() <= 1


def test_evaluation_writes_its_record(run):
  done = vdm('--mode=evaluate', f'--workdir={run}', '--protocol=digits')
  assert done.returncode == 0, done.stderr
  record = json.loads((run / 'evaluation/digits.json').read_text())
  assert record == json.loads(done.stdout)
  (stage,) = record['stages']
  assert (stage['run'], stage['step'], stage['weights']) == (str(run), 12, 'ema') and record['model'] == 'EMA'
  assert record['num_videos'] == 120 and record['step'] == 12 and record['sampling']['num_steps'] == 3
  assert record['real']['digit'] > 0.95 and record['real']['direction'] == 1.0
  assert record['digit'] < 0.5, 'twelve steps are not enough to learn anything'
  assert record['frechet'] > 2 * record['real']['frechet']


def test_the_library_loads_a_run_and_its_exported_weights(run, tmp_path):
  model, params = vdm_jax.load(run)
  vdm_jax.export_weights(run, tmp_path / 'ema.safetensors')
  again, same = vdm_jax.load(tmp_path / 'ema.safetensors')
  assert model.config == again.config
  jax.tree.map(np.testing.assert_array_equal, params, same)
  x = np.random.default_rng(0).normal(size=(1, *model.video_shape)).astype(np.float32)
  cond = model.condition(['a 3 moving left'])
  logsnr = np.array([1.0], np.float32)
  x_hat, carry = jax.jit(lambda p: again.denoiser(p)(x, logsnr, cond, None))(same)
  c = model.parameterization(model.process.alpha(logsnr), model.process.sigma(logsnr))
  output, _ = model.network(params)(diffusion.expand_dims_like(c.input, x) * x, logsnr, cond, None)
  expected = diffusion.expand_dims_like(c.skip, x) * x + diffusion.expand_dims_like(c.out, x) * output
  np.testing.assert_allclose(x_hat, expected, atol=1e-5)


def test_a_workdir_of_another_configuration_is_rejected(run):
  first, *keys, last = refusal(*toy(run, model__embedding_width='32', seed='4')).splitlines()
  assert first.startswith(f'error: {run} ') and '--workdir' in last
  assert [line.strip().split(':')[0] for line in keys] == ['model.embedding_width', 'seed']
  assert '16 ' in keys[0] and '32 ' in keys[0]


def test_a_checkpoint_that_does_not_fit_is_rejected(run, tmp_path):
  out = ('--prompt=a 1 moving up', f'--out={tmp_path}')
  text = refusal('--mode=sample', f'--workdir={run}', *out, '--config.model.base_channels=16')
  assert text.startswith(f'error: checkpoint {run}/checkpoints/12 does not fit the model:\n')
  assert '  ema/stem/kernel: float32[3, 3, 4, 8] saved, float32[3, 3, 4, 16] expected\n' in text


SAMPLE = ['--mode=sample', '--workdir=RUN']
# (arguments, what the message names); RUN stands for a finished run, NEW for a folder that does not exist, TOY for the
# flags of a new toy run.
INVALID = [
  (['TOY', '--config.training.learning_rat=3'], ['config.training.learning_rat ', 'config.training.learning_rate?']),
  (['TOY', '--config.data.still_rate=0.5'], ['config.data.still_rate ', 'config.data.image_rate?']),
  (['TOY', '--config.data.batch_size=abc'], ['--config.data.batch_size=abc']),
  (['TOY', '--workdr=x'], ["'workdr'", 'workdir ?']),
  (['TOY', '--mode=trian'], ["--mode='trian'", "'train'"]),
  (['TOY', '--protocol=digit'], ["--protocol='digit'", "'digits'"]),
  (['TOY', 'left-over'], ["'left-over'", '--workdir=runs/digits']),
  (
    ['TOY', '--config.training.accumulation_steps=3'],
    ['data.batch_size=4', 'mesh.data=1 x mesh.fsdp=1 x training.accumulation_steps=3', '3 or 6'],
  ),
  (['TOY', '--config.mesh.fsdp=2'], ['mesh.data=-1 x mesh.fsdp=2 x mesh.tensor=1', '1 devices']),
  (['TOY', '--workdir=/dev/null/runs'], ['--workdir=/dev/null/runs', 'Not a directory']),
  (['TOY', '--config.sampling.churn=0.1'], ['sampling.churn=0.1', "step='ancestral'", 'heun']),
  (['TOY', '--config.model.head_width=5'], ['head_width=5', '8 channels', '[1, 2, 4, 8]']),
  (['--config=configs/digits.py'], ['--workdir is missing']),
  (['--config=configs/digit.py'], ['--config=configs/digit.py', 'bair, digits, ', 'Did you mean digits?']),
  (['--config=digits', '--overfit', '--workdir=NEW'], ['--overfit', '--mode=train', '--mode=doctor']),
  (['--config=digits', '--pretrained=digits'], ['--pretrained=digits', 'first_stage=pretrained:digits']),
  (['--mode=sample'], ['--workdir is missing', '--pretrained=', 'digits_fit']),
  (['--mode=sample', '--workdir=NEW', '--out=NEW'], ['NEW has no config.json']),
  (['--mode=sample', '--pretrained=digitz', '--out=NEW'], ["'digitz'", "'digits'"]),
  ([*SAMPLE, '--prompt=a'], ['--out is missing']),
  ([*SAMPLE, '--out=NEW', '--pretrained=digits'], ['--workdir', '--pretrained']),
  ([*SAMPLE, '--out=NEW', '--config=digits'], ['--config ', '--mode=sample']),
  ([*SAMPLE, '--out=NEW', '--fps=12'], ['--fps', 'model.scalars']),
  ([*SAMPLE, '--out=NEW', '--checkpoint=7'], ['RUN/checkpoints', 'step 7', '8, 12']),
  ([*SAMPLE, '--out=NEW', '--checkpoint=last'], ['--checkpoint=last']),
  ([*SAMPLE, '--out=NEW', '--weights=emma'], ['weights', "'emma'", "Did you mean 'ema'?"]),
  (['--mode=sample', '--pretrained=digits', '--out=NEW', '--weights=raw'], ['ema weights alone', 'workdir']),
  (['TOY', '--checkpoint=8'], ['--checkpoint=8', '--mode=train']),
  ([*SAMPLE, '--coordinator=a:1', '--num_processes=1', '--process_id=0'], ['--mode=sample']),
]


@pytest.fixture(scope='module')
def rejections(run, tmp_path_factory) -> list[tuple[int, str, Path]]:
  """Exit status, messages and the folder NEW of each command of INVALID."""
  folder = tmp_path_factory.mktemp('invalid')
  commands = []
  for number, (arguments, _) in enumerate(INVALID):
    texts = [text.replace('RUN', str(run)).replace('NEW', str(folder / f'new{number}')) for text in arguments]
    commands.append([flag for text in texts for flag in (toy(folder / f'new{number}') if text == 'TOY' else [text])])
  done = [vdm(*arguments) for arguments in commands]
  return [(command.returncode, command.stderr, folder / f'new{n}') for n, command in enumerate(done)]


@pytest.mark.parametrize('number', range(len(INVALID)), ids=[' '.join(arguments)[:50] for arguments, _ in INVALID])
def test_invalid_input_is_rejected_before_any_work(rejections, run, number):
  status, text, new = rejections[number]
  named = [part.replace('NEW', str(new)).replace('RUN', str(run)) for part in INVALID[number][1]]
  assert status == 2 and text.startswith('error: ') and 'Traceback' not in text, text
  assert all(part in text for part in named), text
  assert not list(new.glob('*')), 'something is written before the checks'


def test_the_large_model_reports_within_seconds_what_is_missing(tmp_path):
  started = time.perf_counter()
  text = refusal('--config=configs/t2v_large.py', f'--workdir={tmp_path / "run"}')
  assert time.perf_counter() - started < 10
  data, encoder = text.splitlines()
  assert data.startswith("error: data.path='data/captioned_videos' ") and 'metadata.jsonl' in data
  assert re.match(r'error: data.text=bert-large .*model.safetensors, .*data.text=words', encoder)


def test_the_doctor_reports_the_machine_and_the_model():
  done = vdm('--mode=doctor', '--config=configs/digits.py')
  assert done.returncode == 0, done.stderr
  machine, _, model, verdict = done.stdout.splitlines()
  assert '1 x cpu (cpu)' in machine and 'unet3d, 995,396 parameters' in model and '8x16x16x1' in model
  assert 'no problem' in verdict


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_at_random_leave_the_run_bitwise_the_same(tmp_path):
  straight, broken = tmp_path / 'straight', tmp_path / 'broken'
  length = {'training__num_steps': '60', 'training__log_every': '7', 'training__preview_every': '20'}
  assert vdm(*toy(straight, **length)).returncode == 0
  rng = np.random.default_rng()
  kills = 0
  while kills < 10:
    process = subprocess.Popen(
      [sys.executable, '-m', 'vdm_jax.main', *toy(broken, **length)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
      if 'compiled' in line:
        break
    time.sleep(rng.uniform(0, 0.6))
    process.kill()
    process.communicate()
    assert process.returncode == -9, 'the run finished before ten kills: give it more steps'
    kills += 1
  done = vdm(*toy(broken, **length))
  assert done.returncode == 0, done.stderr
  assert rows(straight) == rows(broken)
  last = [folder / 'checkpoints' / '60' for folder in (straight, broken)]
  assert all(folder.is_dir() for folder in last)
  states = [_everything(folder) for folder in last]
  assert states[0].keys() == states[1].keys()
  for name, leaf in states[0].items():
    np.testing.assert_array_equal(leaf, states[1][name], err_msg=name)
  _assert_same_samples(straight / 'samples', broken / 'samples')


def _assert_same_samples(folder: Path, other: Path) -> None:
  assert sorted(file.name for file in folder.iterdir()) == sorted(file.name for file in other.iterdir())
  for file in folder.iterdir():
    assert file.read_bytes() == (other / file.name).read_bytes(), file.name


def _everything(folder: Path) -> dict[str, np.ndarray]:
  """Every array of a checkpoint: parameters, optimizer, average, sums."""
  handler = ocp.PyTreeCheckpointHandler()
  saved = handler.metadata(folder / 'default').tree
  as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), saved)
  with ocp.Checkpointer(handler) as reader:
    tree = reader.restore(folder / 'default', args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_large_configuration_trains_on_digits(tmp_path):
  done = vdm(
    '--config=configs/t2v_large.py',
    f'--workdir={tmp_path}',
    '--config.data.name=digits',
    '--config.data.text=words',
    '--config.model.base_channels=32',
    '--config.data.batch_size=4',
    '--config.training.num_steps=2',
    '--config.training.log_every=1',
    '--config.sampling.num_steps=2',
    patience=3000,
  )
  assert done.returncode == 0, done.stderr
  assert [row['step'] for row in rows(tmp_path)] == [1, 2]
  assert os.path.getsize(tmp_path / 'samples/step_00000002.png')


def test_overrides_reach_what_refers_to_them():
  config = configuration.default()
  config.data.num_frames = 5
  assert config.model.num_frames == 5
