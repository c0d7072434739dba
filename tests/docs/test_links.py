"""Links of the documents lead to files and headings that exist, pictures have descriptions, README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vdm_jax import pretrained

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [
  *(REPOSITORY / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md')),
  *(REPOSITORY / name for name in ('vdm_jax/benchmarks/README.md', 'tests/originals/README.md')),
  *sorted((REPOSITORY / 'docs').rglob('*.md')),
]
LINK = re.compile(r'(!?)\[([^\]\n]*)\]\(([^)\s]+)\)')
CODE = re.compile(r'^```.*?^```|`[^`\n]*`', re.MULTILINE | re.DOTALL)
# Pages with headings that exist on the site only; its strict build checks links to them.
MADE_BY_CODE = re.compile(r'<!-- generated: |^::: ', re.MULTILINE)
README_LINES = 180


def links(path: Path) -> list[tuple[str, str, str]]:
  """(`!` or empty, text, target) of each link outside of code."""
  text = CODE.sub(lambda match: '' if match[0].startswith('```') else 'code', path.read_text(encoding='utf-8'))
  return LINK.findall(text)


def anchors(text: str) -> set[str]:
  """The anchors of headings: given ids, and the slugs that both GitHub and MkDocs make of plain titles."""
  found = set(re.findall(r'\{ #([\w-]+) \}', text))
  for heading in re.findall(r'^#+ (.+?)(?: \{ #[\w-]+ \})?$', CODE.sub('', text), re.MULTILINE):
    found.add(re.sub(r'[\s-]+', '-', re.sub(r'[^\w\s-]', '', heading.lower())).strip('-'))
  return found


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(path):
  for bang, text, target in links(path):
    assert text.strip(), f'{target}: {"a picture needs a description" if bang else "a link needs a text"}'
    if re.match(r'https://', target):
      continue
    file, _, anchor = target.partition('#')
    aim = (path.parent / file).resolve() if file else path
    assert aim.exists(), f'{target} is not a file'
    assert aim.is_relative_to(REPOSITORY)
    if anchor:
      page = aim.read_text(encoding='utf-8')
      assert anchor in anchors(page) or MADE_BY_CODE.search(page), f'{target}: no heading of this name'


def test_the_link_test_sees_links():
  assert len([link for path in DOCUMENTS for link in links(path)]) > 100


def test_readme_is_short():
  assert len((REPOSITORY / 'README.md').read_text(encoding='utf-8').splitlines()) <= README_LINES


@pytest.mark.parametrize('name', pretrained.names())
def test_readme_has_the_numbers_of_the_cards(name):
  card = pretrained.card(name)
  (row,) = re.findall(rf'^\| `{name}` \|(.*)$', (REPOSITORY / 'README.md').read_text(encoding='utf-8'), re.MULTILINE)
  frames, height, width, _ = card['video']
  assert f'{frames}x{height}x{width}' in row
  assert f'{card["parameters"]:,}' in row
  if 'digits' in card['scores']:
    scores = card['scores']['digits']
    assert f'{scores["digit"]:.2f} / {scores["direction"]:.2f}' in row
    assert f'{scores["frechet"]:.1f} ({scores["real"]["frechet"]:.1f})' in row
  elif 'scenes' in card['scores']:
    rows = card['scores']['scenes']['rows']
    accuracies = [
      f'{rows["model"][part]["digit"]["value"]:.2f} / {rows["model"][part]["direction"]["value"]:.2f}'
      for part in ('seen', 'unseen')
    ]
    assert f'{accuracies[0]}; unseen captions {accuracies[1]}' in row
    assert f'{rows["model"]["frechet"]:.1f} ({rows["real"]["frechet"]:.1f})' in row
