"""The site builds without a warning, and its pages load nothing from another host."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDS = ('mkdocs', 'material', 'mkdocstrings', 'mkdocs_jupyter', 'latex2mathml')
# Attributes whose address a browser loads; `href` does so for links to styles and icons alone.
LOADED = {'src', 'srcset', 'poster', 'data'}

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not all(map(util.find_spec, NEEDS)), reason="needs pip install -e '.[docs]'"),
]


class Loads(HTMLParser):
  """The addresses that a browser loads when it shows a page."""

  def __init__(self, text: str):
    super().__init__()
    self.found: list[str] = []
    self.script = False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.script = tag == 'script'
    names = LOADED | ({'href'} if tag == 'link' else set())
    self.found += [value for name, value in attrs if name in names and value]

  def handle_data(self, data):
    if self.script:
      self.found += re.findall(r'https?://[^\s"\']+', data)

  def handle_endtag(self, tag):
    self.script = False


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
  """The site; building it strictly is the first test."""
  folder = tmp_path_factory.mktemp('site')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
  done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'WARNING' not in done.stderr
  return folder


@pytest.mark.timeout(600)
def test_the_site_has_its_pages(site):
  pages = [path.parent.relative_to(site).as_posix() for path in site.rglob('index.html')]
  assert {'.', 'getting_started', 'faq', 'mathematics', 'reference/sampling', 'colab/toy_2d', 'changelog'} <= set(pages)


def test_pages_load_nothing_from_other_hosts(site):
  for path in site.rglob('*.html'):
    remote = [
      address for address in Loads(path.read_text(encoding='utf-8')).found if re.match(r'(https?:)?//', address)
    ]
    assert not [address for address in remote if 'www.w3.org' not in address], path


def test_formulas_are_rendered(site):
  page = (site / 'mathematics' / 'index.html').read_text(encoding='utf-8')
  assert page.count('<math') > 50
  assert 'arithmatex' not in page
