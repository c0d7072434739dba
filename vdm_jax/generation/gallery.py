"""The gallery of sampled videos: one HTML page that shows them with their prompts and settings."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from vdm_jax import pages
from vdm_jax.errors import InvalidInput
from vdm_jax.runs import Run
from vdm_jax.runtime.atomic_files import write_text

PAGE, LIST = 'index.html', 'videos.jsonl'
WEIGHTS = {'ema': 'EMA', 'raw': 'raw weights'}
KINDS = ('.mp4', '.webm', '.gif', '.png', '.npy')  # in the order in which a page prefers to show them
PER_PAGE = 200  # videos; browsers play only some hundreds on a page
# Pictures that may lie beside the videos, with their captions.
PICTURES = {
  'contact_sheet.png': 'All videos, with frames from left to right.',
  'plan.png': 'The plan: the frames that each window generates and is conditioned on.',
  'drift.png': 'Drift along the videos: motion and color of each block, and the change at its seams.',
}

_SUMMARY = 'Sampled from {run}, {checkpoint}, with seed {seed}.'
_AGAIN = (
  'The same command with the prompt of video N alone, --first_video=N and --num_videos=1 makes that video again, to '
  'the bit; with another setting, such as --config.sampling.guidance_weight, it makes it from the same noise.'
)
_AGAIN_BY_SEED = (
  'The same command with the prompt of a video alone and --seeds=S, its seed, makes that video again, to the bit; with '
  'another setting, such as --config.sampling.guidance_weight, it makes it from the same noise.'
)

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
    if (!video.dataset.gif) return;
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


def check_page(folder: str | Path, count: int = 1) -> None:
  """Raise InvalidInput if a page in the folder is not a gallery, which one of `count` videos would overwrite."""
  for page in (Path(folder) / name for name in _page_names(count)):
    try:
      ours = _is_gallery(page)
    except (FileNotFoundError, NotADirectoryError):
      continue
    except OSError as error:
      raise InvalidInput(f'{page} cannot be read ({error.strerror}): choose another --out.') from error
    if not ours:
      raise InvalidInput(f'{page} is not a gallery: choose another --out, or move the page away.')


def _page_names(count: int) -> list[str]:
  """The names of the pages of `count` videos."""
  return [PAGE, *(f'index_{number}.html' for number in range(2, math.ceil(count / PER_PAGE) + 1))]


def _is_gallery(page: Path) -> bool:
  return f'content="{pages.GENERATOR}"'.encode() in page.read_bytes()[:4096]


class Video(NamedTuple):
  """A video of a gallery."""

  name: str  # the number that makes it again, or its seed
  title: str
  files: Mapping[str, str]  # by suffix

  @property
  def shown(self) -> str:
    """The file to look at."""
    return next(iter(self.files.values()))


def write_gallery(
  folder: Path,
  stems: Sequence[str],
  titles: Sequence[str],
  *,
  settings: Mapping[str, Any],
  first: int = 0,
  seeds: Sequence[int] = (),
) -> Path:
  """Write `index.html` and `videos.jsonl` beside some videos; more than PER_PAGE videos go to several pages.

  A page works offline and loads only the files beside it. `videos.jsonl` has one line per video with the keys of the
  metadata of a data folder, `file_name` and `text`, and with `number` or `seed`, which make the video again.

  Args:
    folder: the folder of the videos.
    stems: file names of the videos, without suffix.
    titles: prompt or class of each video, '' for unconditional ones.
    settings: table to show, from `describe`.
    first: number of the first video.
    seeds: the seeds, if there is one video of each per prompt.

  Returns:
    The path of the first page.
  """
  videos, lines = [], []
  for index, (stem, title) in enumerate(zip(stems, titles, strict=True)):
    files = {kind: stem + kind for kind in KINDS if (folder / (stem + kind)).exists()}
    origin = {'seed': seeds[index % len(seeds)]} if seeds else {'number': first + index}
    videos.append(Video(f'seed {origin["seed"]}' if seeds else str(first + index), title, files))
    lines.append(json.dumps({'file_name': videos[-1].shown, 'text': title, **origin}) + '\n')
  write_text(folder / LIST, ''.join(lines))
  names = _page_names(len(videos))
  for number, name in enumerate(names):
    shown = videos[number * PER_PAGE : (number + 1) * PER_PAGE]
    body = _body(folder, shown, len(videos), settings, _AGAIN_BY_SEED if seeds else _AGAIN, names, name)
    write_text(folder / name, pages.page(_count(len(videos)), body, script=_SCRIPT))
  _remove_pages(folder, len(names) + 1)
  return folder / PAGE


def _body(
  folder: Path,
  videos: Sequence[Video],
  count: int,
  settings: Mapping[str, Any],
  again: str,
  names: Sequence[str],
  name: str,
) -> str:
  parts = [
    f'<header>\n<h1>{_count(count)}</h1>\n<p class="quiet">{pages.text(_SUMMARY.format(**settings))}</p>\n'
    f'<p class="quiet">{pages.text(again)}</p>\n{_links(names, name)}'
    '<p><button type="button" id="play" hidden>Pause all</button></p>\n</header>\n<main>'
  ]
  for title, group in itertools.groupby(videos, key=lambda video: video.title):
    heading = f'<h2 dir="auto">{pages.text(title)}</h2>\n' if title else ''
    cards = '\n'.join(_card(video) for video in group)
    parts.append(f'<section>\n{heading}<div class="grid">\n{cards}\n</div>\n</section>')
  parts += [_picture(file, caption) for file, caption in PICTURES.items() if (folder / file).exists()]
  parts.append(f'<details open>\n<summary>Settings</summary>\n{pages.table(settings)}\n</details>\n</main>')
  return '\n'.join(parts)


def _links(names: Sequence[str], name: str) -> str:
  """Links to the pages of a gallery, '' if there is one."""
  if len(names) == 1:
    return ''
  links = (
    f'<span>{n}</span>' if other == name else f'<a href="{pages.url(other)}">{n}</a>'
    for n, other in enumerate(names, 1)
  )
  return f'<p>Pages: {" ".join(links)}</p>\n'


def _remove_pages(folder: Path, number: int) -> None:
  """Remove the further pages of an earlier, larger gallery."""
  while (page := folder / f'index_{number}.html').exists() and _is_gallery(page):
    page.unlink()
    number += 1


def describe(
  config: ConfigDict, run: Run, *, frame_rate: float, batch_size: int = 1, seeds: Sequence[int] = (), **others: Any
) -> dict[str, Any]:
  """Return the table of settings for a gallery.

  Args:
    config: the configuration that the videos were sampled with.
    run: the run that they were sampled from.
    frame_rate: frames per second, infinite for images.
    batch_size: videos made at a time; with the device and the version of JAX it decides on rounding.
    seeds: the seeds, if there is one video of each per prompt.
    **others: further settings by name; those that are None are omitted.
  """
  sampling, model = config.sampling, config.model
  rows = {
    'run': run.name,
    'checkpoint': f'step {run.step:,} of {config.training.num_steps:,} ({WEIGHTS[run.weights]})',
    'seed': ', '.join(map(str, seeds)) or config.seed,
    'frame rate': 'image' if math.isinf(frame_rate) else f'{frame_rate:g} per second',
    'model': f'{model.network}, {model.process}, {model.parameterization}',
    'evaluations': f'{sampling.num_steps} points of the {sampling.grid} grid, {sampling.step}',
    'guidance weight': f'{sampling.guidance_weight:g}',
    'threshold': sampling.threshold,
    'made with': f'JAX {jax.__version__} on {jax.devices()[0].device_kind}, {batch_size} at a time',
  }
  return rows | {name.replace('_', ' '): value for name, value in others.items() if value is not None}


def _card(video: Video) -> str:
  label, files = pages.text(f'{video.name}: {video.title}' if video.title else f'video {video.name}'), video.files
  kind = next(iter(files))
  if kind in ('.mp4', '.webm'):
    gif = f' data-gif="{pages.url(files[".gif"])}"' if '.gif' in files else ''
    shown = (
      f'<video controls loop muted playsinline preload="metadata" aria-label="{label}" src="{pages.url(files[kind])}"'
      f'{gif}></video>'
    )
  else:
    shown = '' if kind == '.npy' else f'<img loading="lazy" alt="{label}" src="{pages.url(files[kind])}">'
  links = ' '.join(f'<a href="{pages.url(file)}">{kind[1:]}</a>' for kind, file in files.items())
  return f'<figure>{shown}<figcaption><span>{pages.text(video.name)}</span><span>{links}</span></figcaption></figure>'


def _picture(file: str, caption: str) -> str:
  return (
    f'<section>\n<h2>{pages.text(caption)}</h2>\n<figure class="plain"><a href="{pages.url(file)}">'
    f'<img loading="lazy" alt="{pages.text(caption)}" src="{pages.url(file)}"></a></figure>\n</section>'
  )


def _count(videos: int) -> str:
  return '1 video' if videos == 1 else f'{videos} videos'
