"""Source of sample_t2v.ipynb, which `python launch/colab/execute.py sample_t2v` writes and runs."""
# ruff: noqa: E402

# %% [markdown]
# # Text to video with the shipped models
#
# Small models of moving handwritten digits are part of the package; nothing is downloaded. Enter a prompt, sweep the
# guidance weight, generate a video longer than the model's eight frames, run a cascade of two models, and generate
# combinations that were withheld from training.
#
# It takes two to five minutes on a CPU, mostly for compilation.

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
import html
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import HTML, display

import vdm_jax
from vdm_jax import evaluation, generation, pretrained
from vdm_jax.data.sources.digits import parse_caption, withheld
from vdm_jax.evaluation import drift
from vdm_jax.video import contact_sheet, enlarge, to_uint8, write_gif, write_mp4, write_png

device = jax.default_backend()
print(f'jax {jax.__version__} on {device}; models: {", ".join(pretrained.names())}')


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


# %% tags=["parameters"]
per_prompt = {'cpu': 4}.get(device, 16)  # videos per prompt
evaluated = {'cpu': 40}.get(device, 400)  # videos to evaluate each guidance weight with
long_frames = {'cpu': 32}.get(device, 64)
methods = ('replacement', 'reconstruction')  # of extending videos
changes = {}  # overrides of the models' sampling settings, such as {'num_steps': 64}

# %% [markdown]
# ## A prompt
#
# `vdm_jax.load` returns a model and its parameters, for a shipped model (`pretrained:NAME`) or the folder of your own
# run. The model is the factorized U-Net of *Video Diffusion Models* (Ho et al. 2022), trained with `configs/digits.py`;
# captions are "a (0 to 9) moving (left, right, up or down)". It warns about unknown words.

# %%
# @title Prompt
prompt = 'a 3 moving left'  # @param {type:"string"}
seed = 0  # @param {type:"integer"}

run = 'pretrained:digits'
model, params = vdm_jax.load(run)
settings = {**vdm_jax.Run(run).config['sampling'], **changes}
generate = generation.make_generator(model, settings)
card = pretrained.card('digits')
print(f'{card["parameters"]:,} parameters, {card["step"]:,} steps: {card["command"]}')

prompts = [prompt] * per_prompt + ['a 7 moving up', 'a 0 moving right', 'a 5 moving down', 'a 2 moving left']
videos = generate(params, prompts=prompts, seed=seed)
show(videos, prompts)

# %% [markdown]
# ## The guidance weight
#
# Classifier-free guidance (VDM Eq. 6) combines the predictions with and without the caption:
# $(1+w)\,\hat x(z,c) - w\,\hat x(z)$. The paper's Table 5 shows the trade-off: a larger weight improves the fidelity to
# the prompt and reduces variety. Here a shipped classifier reads which digit the videos show and in which direction it
# moves. *Variety* is the mean distance per pixel between two videos of the same prompt; at the largest weight the
# difference is noise in the background.
#
# The weight is an argument of the compiled sampler, so other weights need no compilation.

# %%
weights = (0.0, 1.0, 4.0, 16.0)


@jax.jit
def at_weight(params, keys, cond, weight):
  return generation.make_sampler(model, {**settings, 'guidance_weight': weight})(params, keys, cond)


captions = [f'a {digit} moving {direction}' for digit in range(10) for direction in ('left', 'right', 'up', 'down')]
captions = [captions[i * 7 % 40] for i in range(max(evaluated // 2, 1))] * 2  # each caption twice, with different noise
keys = jax.random.split(jax.random.key(seed), len(captions))
print(f'{"w":>6}{"digit":>8}{"direction":>11}{"variety":>9}')
for weight in weights:
  made = np.asarray(at_weight(params, keys, model.condition(captions), jnp.float32(weight)))
  scores = evaluation.score(made, captions)
  first, second = np.split(made, 2)
  print(f'{weight:>6g}{scores["digit"]:>8.2f}{scores["direction"]:>11.2f}{np.abs(first - second).mean():>9.3f}')
  shown = slice(0, min(6, len(made)))
  show(made[shown], [f'w = {weight:g}: {caption}' for caption in captions[shown]])

# %% [markdown]
# ## A long video
#
# A model generates a window of a few frames. A longer video follows a plan of windows, each conditioned on existing
# frames (VDM sections 3.1 and 4.3.3). `conditioning` selects the method: `replacement` inserts the given frames at
# every step; `reconstruction` also guides the new frames along the gradient of the reconstruction error (Eq. 7), which
# joins windows better according to the paper. No model was trained for either. `digits_long` was trained on windows of
# longer clips and can continue a video; `digits` only knows a single pass across the picture. The *seam* score is the
# change between frames where two windows meet, relative to the change within windows.

# %%
long_run = 'pretrained:digits_long'
long_model, long_params = vdm_jax.load(long_run)
long_settings = {**vdm_jax.Run(long_run).config['sampling'], **changes}
block = long_model.video_shape[0]
plan = generation.extension(long_frames, block, overlap=block // 2)
print(f'{long_run}: {plan}')
for conditioning in methods:
  extend = generation.make_long_generator(long_model, {**long_settings, 'conditioning': conditioning})
  long_videos = extend(long_params, plan, seed=seed, count=3)
  seams = [drift(video, plan.block_starts)['seam_score'] for video in to_uint8(long_videos)]
  show(long_videos, [f'{conditioning}, seams {seam or 0:.1f}' for seam in seams])

# %% [markdown]
# ## A cascade
#
# The first stage of *Snap Video* (Menapace et al. 2024) generates a small video, and the second upsamples it (section
# 3.4). Both are FITs: most of the computation is on a few latent tokens, which are carried from one evaluation to the
# next. Heun's method takes two evaluations per step.


# %%
def run_cascade(names, texts):
  """Return the videos of the first of two models, and the second model's upsampled versions."""
  stages = []
  for name in names:
    stage_model, stage_params = vdm_jax.load(name)
    stage = generation.make_generator(stage_model, {**vdm_jax.Run(name).config['sampling'], **changes})
    stages.append(lambda stage=stage, stage_params=stage_params, **conditions: stage(stage_params, **conditions))
  first, second = stages
  videos = first(prompts=texts, seed=seed)
  return videos, second(low_resolution=videos, prompts=texts, seed=seed)


small, large = run_cascade(('pretrained:digits_fit', 'pretrained:digits_fit_upsampler'), prompts)
for made in (small, large):
  show(made, [f'{video.shape[1]}x{video.shape[2]}: {text}' for video, text in zip(made, prompts, strict=True)])

# %% [markdown]
# ## Withheld combinations
#
# Two digits, each with a color, a direction and one of three motions: `scenes` is trained on such clips, but a fifth of
# the combinations is withheld (`data.digits.withheld`). A model that had memorized its clips could not generate those.
# Both stages are factorized U-Nets; the videos have 16x64x64 pixels.

# %%
scene_prompts = [
  'a red 3 moving left slowly and a blue 7 bouncing up',
  'a cyan 8 bouncing right and a red 1 moving left quickly',
  'a yellow 2 bouncing down and a magenta 5 moving up quickly',
  'a blue 5 moving down slowly and a yellow 0 bouncing right',
]
small_scenes, scenes = run_cascade(('pretrained:scenes', 'pretrained:scenes_upsampler'), scene_prompts)
status = ['withheld' if any(map(withheld, parse_caption(text))) else 'trained' for text in scene_prompts]
for made in (small_scenes, scenes):
  show(made, [f'{text} ({how})' for text, how in zip(scene_prompts, status, strict=True)], side=160)

# %% [markdown]
# ## Files
#
# The command line writes mp4 files and a contact sheet too:
#
# ```bash
# python -m vdm_jax.main --mode=sample --pretrained=digits --prompt="a 3 moving left" --num_videos=4 --out=out
# ```

# %%
Path('out').mkdir(exist_ok=True)
for number, video in enumerate(videos):
  write_mp4(f'out/{number:04d}.mp4', enlarge(video, 128), 8)
write_png('out/contact_sheet.png', contact_sheet(videos, prompts))
print(*sorted(file.name for file in Path('out').iterdir()))
