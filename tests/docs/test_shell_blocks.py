"""Shell blocks of the documentation run, page by page, at tiny size on clips made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.code_blocks import REPOSITORY, blocks, commands, module_of, pages
from PIL import Image

from vdm_jax.video import write_mp4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAGES = {path.relative_to(REPOSITORY).as_posix(): path for path in pages()}
SECONDS = 900  # for one command
# Flags that are added to a command of each mode, unless it has them.
TRAINING = {
  'training.num_steps': 2,
  'training.warmup_steps': 1,
  'training.log_every': 1,
  'training.checkpoint_every': 2,
  'training.preview_every': 0,
  'training.heldout_every': 0,
  'data.batch_size': 2,
  'data.num_workers': 0,
  'sampling.num_steps': 2,
}
# Of the networks of the experiments; a second stage needs the sizes of its first.
NETWORKS = {
  'unet3d': {
    'model.base_channels': 8,
    'model.channel_multipliers': '(1,)',
    'model.num_blocks': 1,
    'model.attention_resolutions': '()',
    'model.head_width': 8,
    'model.norm_groups': 4,
    'model.embedding_width': 16,
    'model.embedding_layers': 1,
    'data.num_images': 2,
  },
  'fit': {'model.num_blocks': 1, 'model.num_global_layers': 1},
}
FIT_EXPERIMENTS = ('digits_fit', 'digits_fit_upsampler', 'snap_fit')


def clip(seed: int, frames: int = 20, side: int = 32, channels: int = 3) -> np.ndarray:
  """A bright square that moves on a dark ground, uint8 `[t h w c]`."""
  video = np.full((frames, side, side, channels), 20 + seed, np.uint8)
  for frame in range(frames):
    at = (frame + seed) % max(1, side - 8)
    video[frame, side // 2 - 4 : side // 2 + 4, at : at + 8] = 200
  return video


@pytest.fixture
def checkout(tmp_path) -> Path:
  """A folder with the experiments and with the data that pages name."""
  (tmp_path / 'configs').symlink_to(REPOSITORY / 'configs')
  clips = tmp_path / 'clips'
  clips.mkdir()
  for number in range(12):
    write_mp4(clips / f'{number:02d}.mp4', clip(number, side=64), 8)
    if number:  # one is left to the captioner
      (clips / f'{number:02d}.txt').write_text('a square moving right')
  np.save(tmp_path / 'clips_b.npy', np.stack([clip(number, side=64) for number in range(6)]))
  write_mp4(tmp_path / 'clip.mp4', clip(0, frames=8, side=16), 8)
  write_mp4(tmp_path / 'small.mp4', clip(0, frames=4, side=8), 8)
  (tmp_path / 'photos').mkdir()
  Image.fromarray(clip(0)[0]).save(tmp_path / 'photos' / '0.png')
  return tmp_path


def value_of(words: list[str], flag: str, default: str = '') -> str:
  return next((word.split('=', 1)[1] for word in words if word.startswith(f'--{flag}=')), default)


def tiny(words: list[str]) -> list[str]:
  """The flags that make a command of `vdm_jax.main` small."""
  mode = value_of(words, 'mode', 'train')
  if mode == 'train':
    experiment = Path(value_of(words, 'config')).stem
    network = 'fit' if experiment.startswith(FIT_EXPERIMENTS) else 'unet3d'
    return [f'--config.{key}={value}' for key, value in (TRAINING | NETWORKS[network]).items()]
  if mode in ('sample', 'evaluate'):
    steps = [] if value_of(words, 'config.sampling.num_steps') else ['--config.sampling.num_steps=2']
    return [*steps, '--num_videos=1'] if mode == 'sample' else steps
  return []


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess:
  module = module_of(words)
  arguments = [*words[3:], *(tiny(words) if module == 'vdm_jax.main' else [])]
  environment = os.environ | {'PYTHONPATH': f'{REPOSITORY}{os.pathsep}{folder}'}
  if '--overfit' in words:
    environment.pop('XLA_FLAGS', None)  # those of the tests compile fast and run slowly
  command = [sys.executable, '-m', module, *arguments]
  return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def runnable(page: str) -> list[tuple[str, int, list[str]]]:
  """(place, expected exit status, words) of each command of a page that runs here."""
  return [
    (block.place, block.status, words)
    for block in blocks(PAGES[page])
    if block.language == 'bash' and block.marker != 'not run'
    for words in commands(block)
    if module_of(words).startswith('vdm_jax')
  ]


def train(workdir: str, folder: Path) -> None:
  """Trains the run of a page that another page trains."""
  name = Path(workdir).name
  done = run(['python', '-m', 'vdm_jax.main', f'--config=configs/{name}.py', f'--workdir={workdir}'], folder)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('page', [page for page in PAGES if runnable(page)])
def test_shell_blocks_run(page, checkout):
  for block in blocks(PAGES[page]):
    if block.title:
      (checkout / block.title).write_text(block.text)
  for place, status, words in runnable(page):
    workdir, mode = value_of(words, 'workdir'), value_of(words, 'mode', 'train')
    if mode in ('sample', 'evaluate') and workdir and not (checkout / workdir).exists():
      train(workdir, checkout)
    done = run(words, checkout)
    assert done.returncode == status, f'{place}: {" ".join(words)}\n{done.stdout}{done.stderr}'


def test_the_first_command_leaves_what_readme_promises(checkout):
  for _, _, words in runnable('README.md')[:2]:
    done = run(words, checkout)
    assert done.returncode == 0, done.stderr
  assert list((checkout / 'runs' / 'digits' / 'samples').glob('step_*.png'))
  assert (checkout / 'out' / 'index.html').is_file()
  assert json.loads((checkout / 'runs' / 'digits' / 'config.json').read_text())['data']['text'] == 'words'
