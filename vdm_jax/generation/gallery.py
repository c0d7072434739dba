"""The gallery of sampled videos: one HTML page that shows them with their prompts and settings."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vdm_jax import pages
from vdm_jax.errors import InvalidInput
from vdm_jax.runs import Run
from vdm_jax.runtime.atomic_files import write_text

PAGE, LIST = 'index.html', 'videos.jsonl'
WEIGHTS = {'ema': 'EMA', 'raw': 'raw weights'}
KINDS = ('.mp4', '.gif', '.png', '.npy')
# Pictures that may lie beside the videos, with their captions.
PICTURES = {
  'contact_sheet.png': 'All videos, with frames from left to right.',
  'plan.png': 'The plan: the frames that each window generates and is conditioned on.',
  'drift.png': 'Drift along the videos: motion and color of each block, and the change at its seams.',
}

_SUMMARY = 'Sampled from {run}, {checkpoint}, with seed {seed}.'

# Plays the videos in view, unless the browser prefers reduced motion or the button paused them. A video that the
# browser cannot decode is replaced by its GIF.
_SCRIPT = """
const videos = [...document.querySelectorAll('video')];
const button = document.getElementById('play');
let playing = !matchMedia('(prefers-reduced-motion: reduce)').matches;
const inView = new Set();
function update() {
  button.textContent = playing ? 'Pause all' : 'Play all';
  for (const video of videos) {
    if (playing && inView.has(video)) video.play().catch(() => {}); else video.pause();
  }
}
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) inView.add(entry.target); else inView.delete(entry.target);
  update();
});
for (const video of videos) {
  observer.observe(video);
  video.addEventListener('error', () => {
    const image = new Image();
    image.src = video.dataset.gif;
    image.alt = video.getAttribute('aria-label');
    observer.unobserve(video);
    inView.delete(video);
    video.replaceWith(image);
  });
}
button.hidden = videos.length === 0;
button.addEventListener('click', () => { playing = !playing; update(); });
update();
"""


def check_page(folder: str | Path) -> None:
  """Raise InvalidInput if the folder holds a page that is not a gallery, which the gallery would overwrite."""
  try:
    start = (Path(folder) / PAGE).read_bytes()[:4096]
  except (FileNotFoundError, NotADirectoryError):
    return
  except OSError as error:
    raise InvalidInput(f'{Path(folder) / PAGE} cannot be read ({error.strerror}): choose another --out.') from error
  if f'content="{pages.GENERATOR}"'.encode() not in start:
    raise InvalidInput(f'{Path(folder) / PAGE} is not a gallery: choose another --out, or move the page away.')


def write_gallery(folder: Path, stems: Sequence[str], titles: Sequence[str], *, settings: Mapping[str, Any]) -> Path:
  """Write `index.html` and `videos.jsonl` beside some videos.

  The page works offline and loads only the files beside it. `videos.jsonl` has one line per video with the keys of the
  metadata of a data folder: `file_name` and `text`.

  Args:
    folder: the folder of the videos.
    stems: file names of the videos, without suffix.
    titles: prompt or class of each video, '' for unconditional ones.
    settings: table to show, from `describe`.

  Returns:
    The path of the page.
  """
  files = [{kind: stem + kind for kind in KINDS if (folder / (stem + kind)).exists()} for stem in stems]
  shown = [found.get('.mp4') or found['.png'] for found in files]
  lines = (json.dumps({'file_name': file, 'text': title}) for file, title in zip(shown, titles, strict=True))
  write_text(folder / LIST, ''.join(f'{line}\n' for line in lines))
  parts = [
    f'<header>\n<h1>{_count(len(titles))}</h1>\n<p class="quiet">{pages.text(_SUMMARY.format(**settings))}</p>\n'
    '<p><button type="button" id="play" hidden>Pause all</button></p>\n</header>\n<main>'
  ]
  numbers = itertools.count(1)
  for title, group in itertools.groupby(zip(titles, files, strict=True), key=lambda pair: pair[0]):
    cards = '\n'.join(_card(next(numbers), title, found) for _, found in group)
    heading = f'<h2 dir="auto">{pages.text(title)}</h2>\n' if title else ''
    parts.append(f'<section>\n{heading}<div class="grid">\n{cards}\n</div>\n</section>')
  parts += [_picture(file, caption) for file, caption in PICTURES.items() if (folder / file).exists()]
  parts.append(f'<details open>\n<summary>Settings</summary>\n{pages.table(settings)}\n</details>\n</main>')
  path = folder / PAGE
  write_text(path, pages.page(_count(len(titles)), '\n'.join(parts), script=_SCRIPT))
  return path


def describe(config: ConfigDict, run: Run, *, frame_rate: float, **others: Any) -> dict[str, Any]:
  """Return the table of settings for a gallery.

  Args:
    config: the configuration that the videos were sampled with.
    run: the run that they were sampled from.
    frame_rate: frames per second, infinite for images.
    **others: further settings by name; those that are None are omitted.
  """
  sampling, model = config.sampling, config.model
  rows = {
    'run': run.name,
    'checkpoint': f'step {run.step:,} of {config.training.num_steps:,} ({WEIGHTS[run.weights]})',
    'seed': config.seed,
    'frame rate': 'image' if math.isinf(frame_rate) else f'{frame_rate:g} per second',
    'model': f'{model.network}, {model.process}, {model.parameterization}',
    'evaluations': f'{sampling.num_steps} points of the {sampling.grid} grid, {sampling.step}',
    'guidance weight': f'{sampling.guidance_weight:g}',
    'threshold': sampling.threshold,
  }
  return rows | {name.replace('_', ' '): value for name, value in others.items() if value is not None}


def _card(number: int, title: str, files: Mapping[str, str]) -> str:
  label = pages.text(f'{number}: {title}' if title else f'video {number}')
  if '.mp4' in files:
    mp4, gif = (pages.url(files[kind]) for kind in ('.mp4', '.gif'))
    shown = (
      f'<video controls loop muted playsinline preload="metadata" aria-label="{label}" src="{mp4}" data-gif="{gif}">'
      '</video>'
    )
  else:
    shown = f'<img loading="lazy" alt="{label}" src="{pages.url(files[".png"])}">'
  links = ' '.join(f'<a href="{pages.url(file)}">{kind[1:]}</a>' for kind, file in files.items())
  return f'<figure>{shown}<figcaption><span>{number}</span><span>{links}</span></figcaption></figure>'


def _picture(file: str, caption: str) -> str:
  return (
    f'<section>\n<h2>{pages.text(caption)}</h2>\n<figure class="plain"><a href="{pages.url(file)}">'
    f'<img loading="lazy" alt="{pages.text(caption)}" src="{pages.url(file)}"></a></figure>\n</section>'
  )


def _count(videos: int) -> str:
  return '1 video' if videos == 1 else f'{videos} videos'
