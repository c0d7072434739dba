"""Snap's cascade from the command line at toy size: a first stage, a second from its weights, and both together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import vdm
from PIL import Image
from test_main import rows

from vdm_jax import checkpoints, first_stages
from vdm_jax.runs import Run

TOY = {
  'model.patch_width': '16',
  'model.latent_width': '16',
  'model.condition_width': '16',
  'model.num_latents': '8',
  'model.num_blocks': '2',
  'model.num_global_layers': '1',
  'model.patch_head_width': '8',
  'model.latent_head_width': '8',
  'training.num_steps': '4',
  'training.warmup_steps': '1',
  'training.log_every': '2',
  'training.checkpoint_every': '4',
  'training.preview_every': '4',
  'training.heldout_every': '0',
  'data.batch_size': '4',
  'sampling.num_steps': '2',
}


def train(config: str, workdir: Path, *arguments: str):
  toy = [f'--config.{key}={value}' for key, value in TOY.items()]
  return vdm(f'--config=configs/{config}.py', f'--workdir={workdir}', *toy, *arguments)


@pytest.fixture(scope='module')
def stages(tmp_path_factory) -> tuple[Path, Path, str]:
  """The workdirs of both stages, and the output of training the second."""
  folder = tmp_path_factory.mktemp('stages')
  first, second = folder / 'first', folder / 'second'
  done = train('digits_fit', first)
  assert done.returncode == 0, done.stderr
  done = train('digits_fit_upsampler', second, f'--config.training.first_stage={first}')
  assert done.returncode == 0, done.stderr
  return first, second, done.stderr


def test_the_second_stage_starts_from_the_first(stages):
  first, second, said = stages
  assert f'weights of {first}: ' in said
  assert 'resampled: position_embedding; extended by zeros: patch/kernel; fresh: condition/augmentation_logsnr' in said
  assert rows(second)[-1]['train/loss'] > 0
  recorded = Run(second).config['training']['first_stage_identity']
  assert recorded == first_stages.identify(Run(first), second) and recorded['path'] == '../first'
  assert recorded['step'] == 4 and recorded['run_id'] == json.loads((first / 'env.json').read_text())['run_id']
  assert (second / 'samples/step_00000004.png').exists()


def test_sampling_the_second_stage_samples_both(stages, tmp_path):
  _, second, _ = stages
  sample = ('--mode=sample', f'--workdir={second}', '--prompt=a 3 moving left', '--num_videos=2')
  done = vdm(*sample, f'--out={tmp_path / "video"}', '--fps=12', '--original_size=32x32')
  assert done.returncode == 0, done.stderr
  assert {file.suffix for file in (tmp_path / 'video').iterdir()} == {
    '.mp4',
    '.gif',
    '.npy',
    '.png',
    '.html',
    '.json',
    '.jsonl',
  }
  done = vdm(*sample, f'--out={tmp_path / "image"}', '--fps=image')
  assert done.returncode == 0, done.stderr
  names = sorted(file.name for file in (tmp_path / 'image').iterdir())
  images = [f'000{i}-a-3-moving-left.{kind}' for i in range(2) for kind in ('npy', 'png')]
  assert names == [*images, 'contact_sheet.png', 'index.html', 'samples.json', 'videos.jsonl']
  with Image.open(tmp_path / 'image' / names[1]) as image:
    assert image.size == (128, 128)


@pytest.mark.slow
def test_the_noise_augmentation_is_searched(stages):
  _, second, _ = stages
  done = vdm('--mode=evaluate', f'--workdir={second}', '--protocol=digits', '--sweep=augmentation', patience=3000)
  assert done.returncode == 0, done.stderr
  record = json.loads((second / 'evaluation/digits_augmentation.json').read_text())
  levels = [part['sampling']['noise_aug_level'] for part in record['records']]
  distances = [part['frechet'] for part in record['records']]
  assert levels == [0.0, 0.05, 0.1, 0.2, 0.3, 0.5] and len(set(distances)) == 6
  assert record['best'] == levels[int(np.argmin(distances))]


@pytest.mark.slow
def test_first_stages_that_do_not_fit_are_rejected_before_any_work(stages, tmp_path):
  first, second, _ = stages
  wider = train(
    'digits_fit_upsampler', tmp_path / 'a', f'--config.training.first_stage={first}', '--config.model.num_latents=16'
  )
  assert wider.returncode == 2
  assert f'error: {first} ' in wider.stderr and '\n  latents: [8, 16]' in wider.stderr and '[16, 16]' in wider.stderr
  assert checkpoints.steps(tmp_path / 'a') == []
  accepted = train(
    'digits_fit_upsampler',
    tmp_path / 'b',
    f'--config.training.first_stage={first}',
    '--config.model.num_latents=16',
    '--config.training.accept_mismatch=True',
    '--config.training.num_steps=2',
  )
  assert accepted.returncode == 0, accepted.stderr
  fresh = accepted.stderr.split('fresh: ')[1].splitlines()[0].split(', ')
  assert 'latents' in fresh and len(fresh) == 5
  absent = train('digits_fit_upsampler', tmp_path / 'c', '--config.training.first_stage=runs/none')
  assert absent.returncode == 2
  assert 'runs/none has no config.json' in absent.stderr
  blind = train('digits_fit', tmp_path / 'd', '--config.training.self_condition_rate=0.0')
  assert blind.returncode == 2
  assert 'training.self_condition_rate=0.0, but model.self_conditioning=True' in blind.stderr


@pytest.mark.parametrize(
  ('argument', 'named'),
  [
    ('--fps=0', '--fps=0 '),
    ('--original_size=32', '--original_size=32 '),
    ('--config.training.first_stage=runs/none', 'training.first_stage=runs/none: runs/none has no config.json'),
    ('--config.training.first_stage=', '--config.training.first_stage='),
  ],
)
def test_invalid_flags_of_sampling_are_rejected(stages, argument, named, tmp_path):
  _, second, _ = stages
  sample = ('--mode=sample', f'--workdir={second}', f'--out={tmp_path / "out"}', '--prompt=a 3 moving left')
  done = vdm(*sample, argument)
  message = done.stderr.strip().splitlines()[-1]
  assert done.returncode == 2 and message.startswith('error: ') and named in message
  assert not list(tmp_path.iterdir())


def test_a_second_stage_resumes_without_its_first(stages):
  _, second, _ = stages  # its record has the new path from here on, so this test is the last
  done = train('digits_fit_upsampler', second, '--config.training.first_stage=runs/gone')
  assert done.returncode == 0 and 'training.num_steps=4' in done.stderr, done.stderr
  assert Run(second).config['training']['first_stage_identity']['step'] == 4, 'what it was trained from stays recorded'
