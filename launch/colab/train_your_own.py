"""Source of train_your_own.ipynb, which `python launch/colab/execute.py train_your_own` writes and runs."""
# ruff: noqa: E402

# %% [markdown]
# # From a zip of videos to a model of them
#
# Train a small video diffusion model on a zip file of mp4 files, with or without captions: inspect the clips, convert
# them, train, sample. Without a zip file the notebook draws clips of moving colored shapes.
#
# On a CPU it takes five to ten minutes for a toy model of 8 frames of 16x16 pixels, enough to see every step; on a GPU
# or TPU it takes hours for 16 frames of 64x64.
#
# The caption of `cat.mp4` is the text file `cat.txt` beside it. Nine of ten clips are for training, one is held out.

# %%
# @title Installation (on Colab only)
import shutil
import subprocess
import sys
from pathlib import Path

repository = ''  # @param {type:"string"}
# The source for pip, such as git+https://HOST/OWNER/vdm_jax.

if 'google.colab' in sys.modules:
  if not repository:
    raise ValueError('repository is empty: enter the source for pip above.')
  is_tpu = any(Path('/dev').glob('accel*')) or any(Path('/dev/vfio').glob('*'))
  extra = '[cuda12]' if shutil.which('nvidia-smi') else '[tpu]' if is_tpu else ''
  package = f'vdm_jax{extra} @ {repository}'
  subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', package], check=True)

# %%
import base64
import hashlib
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
  """Display videos `[n t h w c]` in [-1, 1] as GIFs embedded in HTML, each with its caption."""
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
# Path of the zip file, such as /content/clips.zip after an upload; empty: clips are drawn.

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
# The zip file is unpacked into a folder of its own, and so are the converted clips and the run: clips of two zip files
# never mix. Without one, 96 clips are drawn (two shapes, three colors, four directions), captioned and zipped.

# %%
SHAPES, COLORS = ('square', 'disc'), {'red': (230, 60, 50), 'green': (60, 200, 80), 'blue': (70, 90, 240)}
DIRECTIONS = {'left': (0, -1), 'right': (0, 1), 'up': (-1, 0), 'down': (1, 0)}


def draw_clip(shape, color, direction, rng, side=32, frames=12):
  """Return a clip of a shape that crosses the center, uint8 [t h w 3]."""
  rows, columns = np.mgrid[:side, :side]
  step, shift = np.array(DIRECTIONS[direction]), rng.integers(-1, 2, 2)
  clip = np.zeros((frames, side, side, 3), np.uint8)
  for time, frame in enumerate(clip):
    row, column = side / 2 - 0.5 + shift + 1.5 * (time - frames / 2) * step
    down, right = rows - row, columns - column
    inside = down**2 + right**2 < 50 if shape == 'disc' else np.maximum(abs(down), abs(right)) < 6
    frame[inside] = COLORS[color]
  return clip


zip_file = zip_file or 'drawn.zip'
if zip_file == 'drawn.zip' and not Path(zip_file).exists():
  rng = np.random.default_rng(0)
  with zipfile.ZipFile(zip_file, 'w') as archive, tempfile.TemporaryDirectory() as folder:
    for number, words in enumerate(list(itertools.product(SHAPES, COLORS, DIRECTIONS)) * 4):
      file = Path(folder) / f'{number:03d}.mp4'
      write_mp4(file, draw_clip(*words, rng), 8)
      archive.write(file, file.name)
      archive.writestr(f'{number:03d}.txt', 'a {1} {0} moving {2}'.format(*words))
with open(zip_file, 'rb') as file:
  name = f'{Path(zip_file).stem}-{hashlib.file_digest(file, "sha256").hexdigest()[:8]}'
clips, workdir = f'clips/{name}', f'runs/{name}'
with zipfile.ZipFile(zip_file) as archive:
  archive.extractall(clips)

# %% [markdown]
# ## Inspection
#
# The same as `python -m vdm_jax.data inspect FOLDER`: every clip is opened, and its first and last window are decoded.

# %%
found, sheet = inspect(clips, num_frames=size['frames'])
print(found.report())
if found.problem:
  raise SystemExit(found.problem)
plt.figure(figsize=(10, 10), dpi=64)
plt.imshow(sheet)
plt.axis('off')
plt.show()

# %% [markdown]
# ## Conversion
#
# The clips are resized, cropped and written as ArrayRecord shards (`python -m vdm_jax.data convert`). Training on them
# is faster than on the files, and the same to the bit.

# %%
converted = f'converted/{name}-{size["side"]}'
_, source = open_stored(clips, 'train', num_frames=1, train_on_all=True)
data.convert(source, converted, size=(size['side'], size['side']))

# %% [markdown]
# ## The configuration
#
# `configuration.default()` has every key; this cell sets those that differ. The network is VDM's factorized U-Net. For
# joint image-video training (VDM section 3.2), independent images without temporal attention are appended to each
# video.

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
# The stop button saves a checkpoint; running the cell again resumes. Checkpoints and `metrics.jsonl` are in a folder of
# `runs`; on Colab, copy it to a drive to keep it.

# %%
status = jobs.train(config, workdir)
rows = [json.loads(line) for line in (Path(workdir) / 'metrics.jsonl').read_text().splitlines()]
figure, axis = plt.subplots(figsize=(6, 2.6), dpi=64)
for name in ('train/loss', 'heldout/loss'):
  axis.semilogy(*zip(*((row['step'], row[name]) for row in rows if name in row), strict=True), label=name)
axis.set_xlabel('step')
axis.legend()
plt.show()

# %% [markdown]
# ## Sampling
#
# Without a prompt, captions of the data are sampled. Sampling uses the exponential moving average of the parameters.

# %%
# @title Prompt
prompt = ''  # @param {type:"string"}

model, params = vdm_jax.load(workdir)
generate = generation.make_generator(model, config.sampling)
if words:
  known = sorted(set(filter(None, found.captions)))
  prompts = [prompt] * 4 if prompt else known[:: max(1, len(known) // 12)][:12]
  show(generate(params, prompts=prompts, seed=0), prompts)
else:
  show(generate(params, count=12, seed=0), [''] * 12)

# %% [markdown]
# The command line also generates long videos, interpolates and upsamples; in place of NAME give the folder that `runs`
# holds: `python -m vdm_jax.main --mode=sample --workdir=runs/NAME --out=out`.
