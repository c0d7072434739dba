"""The contents of an HTML file and what it would load, by an independent parser."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements of an intact page; a prompt that became markup would add others, or more scripts.
KNOWN = {
  'html',
  'head',
  'meta',
  'link',
  'title',
  'style',
  'body',
  'header',
  'main',
  'section',
  'h1',
  'h2',
  'p',
  'div',
  'figure',
  'figcaption',
  'span',
  'a',
  'video',
  'img',
  'button',
  'details',
  'summary',
  'table',
  'tr',
  'th',
  'td',
  'script',
}
VOID = {'meta', 'link', 'img', 'input'}
LOADS = ('src', 'href', 'poster', 'data', 'srcset', 'action', 'formaction', 'data-gif')


class Page(HTMLParser):
  """The elements, their text, and every address of a page."""

  def __init__(self, path: Path):
    super().__init__(convert_charrefs=True)
    self.folder, self.elements, self.addresses, self.open = path.parent, [], [], []
    self.texts: dict[str, list[str]] = {}
    self.feed(path.read_text(encoding='utf-8'))
    self.close()
    assert not self.open, f'not closed: {self.open}'

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    assert len(attributes) == len(attrs), 'an attribute is given twice'
    self.elements.append((tag, attributes))
    self.addresses += [value for name, value in attrs if name in LOADS and value]
    if tag not in VOID:
      self.open.append(tag)
      self.texts.setdefault(tag, []).append('')

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open:
      self.texts[self.open[-1]][-1] += data

  def all(self, tag: str) -> list[dict[str, str]]:
    return [attributes for name, attributes in self.elements if name == tag]

  def files(self) -> set[str]:
    """The files that the page refers to, all of which exist beside it."""
    found = set()
    for address in self.addresses:
      if address == 'data:,':
        continue
      parts = urlsplit(address)
      assert not parts.scheme and not parts.netloc, f'{address} is not beside the page'
      path = self.folder / unquote(parts.path)
      assert path.is_file() and path.resolve().is_relative_to(self.folder.resolve()), address
      found.add(path.relative_to(self.folder).as_posix())
    return found

  def check_inert(self, known: set[str] = KNOWN) -> None:
    """Nothing but known elements, no handlers, and a policy that allows the page's own script and no network."""
    assert {tag for tag, _ in self.elements} <= known
    for _, attributes in self.elements:
      assert not [name for name in attributes if name.startswith('on')]
    (policy,) = [a['content'] for a in self.all('meta') if a.get('http-equiv') == 'Content-Security-Policy']
    assert "default-src 'none'" in policy and 'http' not in policy
    assert 'unsafe-inline' not in policy.split('script-src')[1]
    scripts = zip(self.all('script'), self.texts.get('script', []), strict=True)
    running = [text for attributes, text in scripts if attributes.get('type') != 'application/json']
    for script in running:
      digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
      assert f"'sha256-{digest}'" in policy
    assert len(running) <= 1

  def json(self, name: str):
    scripts = zip(self.all('script'), self.texts['script'], strict=True)
    (content,) = [text for attributes, text in scripts if attributes.get('id') == name]
    return json.loads(content)
