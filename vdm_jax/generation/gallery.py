"""The gallery of a sampling: one page that shows its videos with what they were asked for."""

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
from vdm_jax.runtime.atomic_files import write_text

PAGE, LIST = 'index.html', 'videos.jsonl'
KINDS = ('.mp4', '.gif', '.png', '.npy')
# What is drawn beside some videos, and what a reader should know of it.
PICTURES = {
  'contact_sheet.png': 'All videos, their frames from left to right.',
  'plan.png': 'The plan: which window made and saw which frames.',
  'drift.png': 'How the videos drift: motion and colour along them, and how much changes at the seams of blocks.',
}

_SUMMARY = 'Sampled from {run}, {checkpoint}, with seed {seed}.'

# Plays what is in view; a reader who asked for less motion, or pressed the button, plays by hand. Where a browser
# cannot decode the video, its GIF takes its place.
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
  """Raises InvalidInput where the gallery would take the place of a page that is no gallery."""
  try:
    start = (Path(folder) / PAGE).read_bytes()[:4096]
  except (FileNotFoundError, NotADirectoryError):
    return
  except OSError as error:
    raise InvalidInput(f'{Path(folder) / PAGE} cannot be read ({error.strerror}): choose another --out.') from error
  if f'content="{pages.GENERATOR}"'.encode() not in start:
    raise InvalidInput(f'{Path(folder) / PAGE} is a page of something else: choose another --out, or move it away.')


def write_gallery(folder: Path, stems: Sequence[str], names: Sequence[str], *, settings: Mapping[str, Any]) -> Path:
  """Writes `index.html` and `videos.jsonl` to the folder of some videos, and returns the page.

  `stems` are the names of the videos' files without their endings, `names` what each shows, '' where nothing was asked
  for. The page opens without a network and loads nothing but the files beside it. `videos.jsonl` has one line per
  video with the keys of a data folder's metadata: `file_name` and `text`.
  """
  files = [{kind: stem + kind for kind in KINDS if (folder / (stem + kind)).exists()} for stem in stems]
  shown = [found.get('.mp4') or found['.png'] for found in files]
  lines = (json.dumps({'file_name': file, 'text': name}) for file, name in zip(shown, names, strict=True))
  write_text(folder / LIST, ''.join(f'{line}\n' for line in lines))
  parts = [
    f'<header>\n<h1>{_count(len(names))}</h1>\n<p class="quiet">{pages.text(_SUMMARY.format(**settings))}</p>\n'
    '<p><button type="button" id="play" hidden>Pause all</button></p>\n</header>\n<main>'
  ]
  numbers = itertools.count(1)
  for name, group in itertools.groupby(zip(names, files, strict=True), key=lambda pair: pair[0]):
    cards = '\n'.join(_card(next(numbers), name, found) for _, found in group)
    heading = f'<h2 dir="auto">{pages.text(name)}</h2>\n' if name else ''
    parts.append(f'<section>\n{heading}<div class="grid">\n{cards}\n</div>\n</section>')
  parts += [_picture(file, meaning) for file, meaning in PICTURES.items() if (folder / file).exists()]
  parts.append(f'<details open>\n<summary>Settings</summary>\n{pages.table(settings)}\n</details>\n</main>')
  path = folder / PAGE
  write_text(path, pages.page(_count(len(names)), '\n'.join(parts), script=_SCRIPT))
  return path


def describe(config: ConfigDict, workdir: str, step: int, *, frame_rate: float, **asked: Any) -> dict[str, Any]:
  """The settings that a gallery shows; `asked` are what else the command said, left out where None."""
  sampling, model = config.sampling, config.model
  rows = {
    'run': workdir,
    'checkpoint': f'step {step:,} of {config.training.num_steps:,} (EMA)',
    'seed': config.seed,
    'frame rate': 'image' if math.isinf(frame_rate) else f'{frame_rate:g} per second',
    'model': f'{model.network}, {model.process}, {model.parameterization}',
    'evaluations': f'{sampling.num_steps} points of the {sampling.grid} grid, {sampling.step}',
    'guidance weight': f'{sampling.guidance_weight:g}',
    'threshold': sampling.threshold,
  }
  return rows | {name.replace('_', ' '): value for name, value in asked.items() if value is not None}


def _card(number: int, name: str, files: Mapping[str, str]) -> str:
  label = pages.text(f'{number}: {name}' if name else f'video {number}')
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


def _picture(file: str, meaning: str) -> str:
  return (
    f'<section>\n<h2>{pages.text(meaning)}</h2>\n<figure class="plain"><a href="{pages.url(file)}">'
    f'<img loading="lazy" alt="{pages.text(meaning)}" src="{pages.url(file)}"></a></figure>\n</section>'
  )


def _count(videos: int) -> str:
  return '1 video' if videos == 1 else f'{videos} videos'
