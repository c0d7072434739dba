"""The source of train_your_own.ipynb: `python launch/colab/execute.py train_your_own` writes and runs it."""
# ruff: noqa: E402

# %% [markdown]
# # From a zip of videos to a model of them
#
# Give a zip file of mp4 files, with captions or without, and train a small video diffusion model: look at the clips,
# convert them, train, sample. Without a zip file the notebook draws some clips itself: coloured shapes that move.
#
# On a CPU it takes five to ten minutes for a toy of 8 frames of 16x16 pixels, enough to see everything work; on a GPU
# or TPU hours, for 16 frames of 64x64.
#
# A caption is a text file beside its clip, `cat.mp4` and `cat.txt`. Nine clips in ten are trained on, one is held out.

# %%
# @title Installation (on Colab only)
import shutil
import subprocess
import sys
from pathlib import Path

repository = ''  # @param {type:"string"}
# What pip installs from, such as git+https://HOST/OWNER/vdm_jax.

if 'google.colab' in sys.modules:
  if not repository:
    raise ValueError('repository is empty: write above what pip is to install from.')
  is_tpu = any(Path('/dev').glob('accel*')) or any(Path('/dev/vfio').glob('*'))
  extra = '[cuda12]' if shutil.which('nvidia-smi') else '[tpu]' if is_tpu else ''
  package = f'vdm_jax{extra} @ {repository}'
  subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', package], check=True)

# %%
import base64
import html
import itertools
import json
import tempfile
import zipfile

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display

import vdm_jax
from vdm_jax import configuration, data, generation, jobs
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources.catalog import open_stored
from vdm_jax.video import write_gif, write_mp4

device = jax.default_backend()
print(f'jax {jax.__version__} on {device}')


def show(videos, captions, frame_rate=8, side=96):
  """Videos `[n t h w c]` in [-1, 1] as GIFs inside one piece of HTML, each with its caption."""
  cells = []
  for video, caption in zip(videos, captions, strict=True):
    with tempfile.TemporaryDirectory() as folder:
      file = Path(folder) / 'video.gif'
      write_gif(file, video, frame_rate)
      image = base64.b64encode(file.read_bytes()).decode()
    cells.append(
      f'<figure style="margin:4px;width:{side}px"><img width="{side}" style="image-rendering:pixelated" '
      f'alt="{html.escape(caption)}" src="data:image/gif;base64,{image}">'
      f'<figcaption style="font-size:11px">{html.escape(caption)}</figcaption></figure>'
    )
  display(HTML(f'<div style="display:flex;flex-wrap:wrap">{"".join(cells)}</div>'))


# %%
# @title Your clips
zip_file = ''  # @param {type:"string"}
# Where the zip file lies, such as /content/clips.zip after an upload; empty: clips are drawn.

# %% tags=["parameters"]
SMALL = {
  'side': 16,
  'frames': 8,
  'batch': 4,
  'images': 4,
  'steps': 1_500,
  'learning_rate': 2e-3,
  'network': {
    'base_channels': 32,
    'channel_multipliers': (1, 2),
    'num_blocks': 1,
    'attention_resolutions': (4, 8),
    'head_width': 16,
    'embedding_width': 128,
    'embedding_layers': 2,
    'norm_groups': 8,
    'patch_size': 2,
    'position_embedding': True,
  },
}
LARGE = {
  'side': 64,
  'frames': 16,
  'batch': 16,
  'images': 8,
  'steps': 50_000,
  'learning_rate': 2e-4,
  'network': {
    'base_channels': 64,
    'channel_multipliers': (1, 2, 4),
    'num_blocks': 2,
    'attention_resolutions': (8, 16),
    'head_width': 64,
    'embedding_width': 512,
    'embedding_layers': 2,
    'dtype': 'bfloat16',
    'remat': True,
  },
}
size = {'cpu': SMALL}.get(device, LARGE)

# %% [markdown]
# ## Clips
#
# A zip file is unpacked. Else 96 clips are drawn: two shapes, three colours, four directions, each with its caption,
# and zipped.

# %%
SHAPES, COLORS = ('square', 'disc'), {'red': (230, 60, 50), 'green': (60, 200, 80), 'blue': (70, 90, 240)}
DIRECTIONS = {'left': (0, -1), 'right': (0, 1), 'up': (-1, 0), 'down': (1, 0)}


def draw_clip(shape, color, direction, rng, side=32, frames=12):
  """uint8 [t h w 3]: a shape that crosses the middle of the picture."""
  rows, columns = np.mgrid[:side, :side]
  step, shift = np.array(DIRECTIONS[direction]), rng.integers(-1, 2, 2)
  clip = np.zeros((frames, side, side, 3), np.uint8)
  for time, frame in enumerate(clip):
    row, column = side / 2 - 0.5 + shift + 1.5 * (time - frames / 2) * step
    down, right = rows - row, columns - column
    inside = down**2 + right**2 < 50 if shape == 'disc' else np.maximum(abs(down), abs(right)) < 6
    frame[inside] = COLORS[color]
  return clip


if not zip_file:
  rng, zip_file = np.random.default_rng(0), 'drawn.zip'
  with zipfile.ZipFile(zip_file, 'w') as archive, tempfile.TemporaryDirectory() as folder:
    for number, words in enumerate(list(itertools.product(SHAPES, COLORS, DIRECTIONS)) * 4):
      file = Path(folder) / f'{number:03d}.mp4'
      write_mp4(file, draw_clip(*words, rng), 8)
      archive.write(file, file.name)
      archive.writestr(f'{number:03d}.txt', 'a {1} {0} moving {2}'.format(*words))
with zipfile.ZipFile(zip_file) as archive:
  archive.extractall('clips')

# %% [markdown]
# ## What is in them, and can training start?
#
# The same as `python -m vdm_jax.data inspect clips`. Every clip is opened, and its first and last window decoded.

# %%
found, sheet = inspect('clips', num_frames=size['frames'])
print(found.report())
if found.problem:
  raise SystemExit(found.problem)
plt.figure(figsize=(10, 10), dpi=64)
plt.imshow(sheet)
plt.axis('off')
plt.show()

# %% [markdown]
# ## Converted once, read often
#
# Scaled, cut and written as ArrayRecord shards (`python -m vdm_jax.data convert`). Training on them is the same as on
# the files, to the bit, and faster.

# %%
converted = f'clips_{size["side"]}'
_, source = open_stored('clips', 'train', num_frames=1, train_on_all=True)
data.convert(source, converted, size=(size['side'], size['side']))

# %% [markdown]
# ## The configuration
#
# `configuration.default()` has every key; what differs is set here. The network is VDM's factorized U-Net, and each
# video comes with independent pictures on which attention over time is switched off: joint image-video training (VDM
# section 3.2).

# %%
words = [len(caption.split()) for caption in found.captions if caption]
config = configuration.default('unet3d')
config.data.update(
  name='records',
  path=converted,
  batch_size=size['batch'],
  num_frames=size['frames'],
  height=size['side'],
  width=size['side'],
  num_images=size['images'],
  text='words' if words else 'none',
  text_length=max(words, default=1),
)
config.model.update(parameterization='v', logsnr_shift=-2.0 if size['side'] < 64 else 0.0, **size['network'])
config.training.update(
  num_steps=size['steps'],
  learning_rate=size['learning_rate'],
  schedule='cosine',
  warmup_steps=size['steps'] // 20,
  log_every=max(1, size['steps'] // 30),
  checkpoint_every=max(1, size['steps'] // 5),
  preview_every=size['steps'],
  heldout_every=max(1, size['steps'] // 10),
  ema_decay=0.995 if device == 'cpu' else 0.9995,
  ema_warmup=True,
)
config.sampling.update(num_steps=32, guidance_weight=1.0 if words else 0.0)

# %% [markdown]
# ## Training
#
# The stop button saves; running the cell again goes on from there. Checkpoints and `metrics.jsonl` lie in `runs/mine`;
# on Colab, copy the folder to a drive to keep it.

# %%
status = jobs.train(config, 'runs/mine')
rows = [json.loads(line) for line in Path('runs/mine/metrics.jsonl').read_text().splitlines()]
figure, axis = plt.subplots(figsize=(6, 2.6), dpi=64)
for name in ('train/loss', 'heldout/loss'):
  axis.semilogy(*zip(*((row['step'], row[name]) for row in rows if name in row), strict=True), label=name)
axis.set_xlabel('step')
axis.legend()
plt.show()

# %% [markdown]
# ## Sampling
#
# Held-out prompts above, yours below. The network is the exponential moving average of the trained one.

# %%
# @title Prompt
prompt = ''  # @param {type:"string"}

model, params = vdm_jax.load('runs/mine')
generate = generation.make_generator(model, config.sampling)
if words:
  known = sorted(set(filter(None, found.captions)))
  prompts = [prompt] * 4 if prompt else known[:: max(1, len(known) // 12)][:12]
  show(generate(params, prompts=prompts, seed=0), prompts)
else:
  show(generate(params, count=12, seed=0), [''] * 12)

# %% [markdown]
# From the command line, also long videos, interpolation and super-resolution:
# `python -m vdm_jax.main --mode=sample --workdir=runs/mine --out=out`.
