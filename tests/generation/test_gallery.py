"""Galleries show every video beside them, load nothing else, and escape prompts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.html_pages import Page

from vdm_jax import configuration, pages
from vdm_jax.errors import InvalidInput
from vdm_jax.generation.gallery import check_page, describe, write_gallery
from vdm_jax.generation.outputs import slug, write_video
from vdm_jax.video import write_png

HOSTILE = [
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "' autofocus onfocus='alert(1)",
  '</title></style><svg/onload=alert(1)>',
  '<!-- <h1>',
  '&lt;b&gt; &amp;',
  '../../etc/passwd',
  'javascript:alert(1)',
  '{run} %s {{0}}',
  'a\x00b\x1b[31mc\ud800',
  '\u202eright to left',
  '<' * 5000,
]
RUN = SimpleNamespace(name='runs/<b>', step=3, weights='ema')
VIDEO = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)


def gallery(folder, names, frame_rate=8.0, **asked):
  folder.mkdir(exist_ok=True)
  stems = [f'{number:04d}{slug(name)}' for number, name in enumerate(names)]
  for stem in stems:
    write_video(VIDEO, folder / stem, frame_rate)
  settings = describe(configuration.default(), RUN, frame_rate=frame_rate, **asked)
  return write_gallery(folder, stems, names, settings=settings)


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
  return gallery(tmp_path_factory.mktemp('hostile'), HOSTILE)


def test_prompts_are_escaped(hostile):
  page = Page(hostile)
  page.check_inert()
  readable = ['a\ufffdb\ufffd[31mc\ufffd' if '\x00' in prompt else prompt for prompt in HOSTILE]
  assert page.texts['h2'] == readable
  assert [video['aria-label'] for video in page.all('video')] == [f'{n}: {p}' for n, p in enumerate(readable)]
  assert RUN.name in page.texts['td'] and page.texts['p'][0].startswith(f'Sampled from {RUN.name}, step 3 of ')
  assert page.texts['h1'] == page.texts['title'] == ['12 videos']


def test_all_files_are_shown_and_none_is_fetched(hostile):
  videos = {path.name for path in hostile.parent.iterdir() if path.suffix in ('.mp4', '.gif')}
  assert len(videos) == 2 * len(HOSTILE)
  page = Page(hostile)
  assert page.files() == videos
  assert all({'controls', 'loop', 'muted', 'playsinline'} <= video.keys() for video in page.all('video'))


def test_the_list_beside_the_page_gives_each_video_its_prompt(hostile):
  lines = [json.loads(line) for line in (hostile.parent / 'videos.jsonl').read_text().splitlines()]
  assert [line['text'] for line in lines] == HOSTILE
  assert [line['file_name'] for line in lines] == [f'{n:04d}{slug(prompt)}.mp4' for n, prompt in enumerate(HOSTILE)]


def test_videos_of_one_prompt_are_grouped(tmp_path):
  page = Page(gallery(tmp_path, ['a', 'a', 'b'], original_size=(64, 48), init_video=None))
  assert page.texts['h2'] == ['a', 'b']
  tags = [tag for tag, _ in page.elements if tag in ('h2', 'video')]
  assert tags == ['h2', 'video', 'video', 'h2', 'video']
  assert dict(zip(page.texts['th'], page.texts['td'], strict=True))['original size'] == '(64, 48)'
  assert 'init video' not in page.texts['th']


def test_images_and_pictures_beside_the_videos(tmp_path):
  for name in ('plan.png', 'drift.png'):
    write_png(tmp_path / name, VIDEO[0])
  page = Page(gallery(tmp_path, ['', ''], frame_rate=float('inf')))
  assert page.files() == {'0000.png', '0001.png', 'plan.png', 'drift.png'}
  assert [image['alt'][:7] for image in page.all('img')] == ['video 0', 'video 1', 'The pla', 'Drift a']
  assert not page.all('video') and all('hidden' in button for button in page.all('button'))
  assert [line.split()[0] for line in page.texts['h2']] == ['The', 'Drift'], 'no heading without a prompt'


def test_another_page_is_not_replaced(tmp_path):
  check_page(tmp_path / 'absent', 1)
  (tmp_path / 'index.html').write_text('<html>my site</html>')
  with pytest.raises(InvalidInput, match=f'^{re.escape(str(tmp_path))}/index.html .* --out'):
    check_page(tmp_path, 1)
  (tmp_path / 'index.html').unlink()
  gallery(tmp_path, ['a'])
  check_page(tmp_path, 1)


def test_further_pages_of_another_site_are_left_alone(tmp_path):
  (tmp_path / 'index_2.html').write_text('<html>my site</html>')
  check_page(tmp_path, 200)
  gallery(tmp_path, ['a'])
  assert (tmp_path / 'index_2.html').read_text() == '<html>my site</html>'
  with pytest.raises(InvalidInput, match='index_2.html'):
    check_page(tmp_path, 201)


def test_urls_of_odd_file_names_are_quoted():
  assert pages.url('a b#c?d&e"<f>%41.mp4') == './a%20b%23c%3Fd%26e%22%3Cf%3E%2541.mp4'
  assert pages.url('https://example.org/x') == './https%3A/example.org/x'


# ---- in a browser ---------------------------------------------------------------------------------------------------

RUNS = [
  "<script>document.title = 'ran'</script>",
  '"><img src=x onerror="document.title = \'ran\'">',
  '"><svg onload="document.title = \'ran\'">',
]


@pytest.fixture(scope='module')
def browser():
  """Opens a page in headless Chromium: the document as its scripts left it, and what the console said."""
  named = (os.environ.get('CHROMIUM'), 'chromium', 'chromium-browser', 'google-chrome')
  found = next(filter(None, (shutil.which(name) for name in named if name)), None)
  if found is None:
    pytest.skip('no chromium, chromium-browser or google-chrome on the PATH, and the variable CHROMIUM names none')

  def visit(path, profile):
    flags = [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--enable-logging=stderr',
      '--virtual-time-budget=5000',
      '--dump-dom',
      f'--user-data-dir={profile}',
    ]
    done = subprocess.run([found, *flags, path.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    seen = path.with_name('seen.html')
    seen.write_text(done.stdout, encoding='utf-8')
    return Page(seen), re.findall(r'CONSOLE.*', done.stderr)

  return visit


@pytest.mark.slow
def test_a_browser_shows_the_videos_and_runs_nothing_of_a_prompt(browser, tmp_path):
  prompts = [*HOSTILE[:9], *RUNS]
  seen, console = browser(gallery(tmp_path / 'out', prompts), tmp_path / 'profile')
  assert console == []
  assert seen.texts['title'] == ['12 videos'] and seen.texts['h2'] == prompts
  assert [video['aria-label'] for video in seen.all('video')] == [f'{n}: {p}' for n, p in enumerate(prompts)]
  (button,) = seen.all('button')
  assert 'hidden' not in button and seen.texts['button'] == ['Pause all'], 'the script of the page has not run'


@pytest.mark.slow
def test_in_a_browser_the_gif_takes_the_place_of_a_video_that_cannot_be_decoded(browser, tmp_path):
  path = gallery(tmp_path / 'out', ['a "3"', 'b'])
  broken = sorted(path.parent.glob('*.mp4'))[0]
  broken.write_bytes(b'no video')
  seen, console = browser(path, tmp_path / 'profile')
  assert console == []
  assert [video['aria-label'] for video in seen.all('video')] == ['1: b']
  assert [image['alt'] for image in seen.all('img')] == ['0: a "3"']
  assert seen.all('img')[0]['src'].endswith(f'{broken.stem}.gif')


@pytest.mark.slow
def test_a_browser_refuses_a_script_that_is_not_the_pages_own(browser, tmp_path):
  """What the tests above would see if a prompt had become markup."""
  path = gallery(tmp_path / 'out', ['a'])
  path.write_text(path.read_text().replace('<main>', f'<main>{RUNS[0]}'))
  seen, console = browser(path, tmp_path / 'profile')
  assert seen.texts['title'] == ['1 video']
  assert len(console) == 1 and 'Content Security Policy' in console[0]
