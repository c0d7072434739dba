"""MkDocs hooks: tables and pages made from the code, files from outside docs/, and formulas without JavaScript.

A page asks for a table with `<!-- generated: NAME -->`, a name of `TABLES`, and for a figure of the notebook toy_2d
with `<!-- figure: NUMBER: DESCRIPTION -->`. Links to files outside docs/ are rewritten to their place on the site, so
the same page reads well in a checkout.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import configuration_keys
import extending
import figures
import hardware
import models
from latex2mathml import converter
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

logging.getLogger('traitlets').setLevel(logging.ERROR)  # of nbconvert: figures of notebooks have no alternative text

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = 'vdm_jax/benchmarks/results'
# Files outside docs/ that the site shows: path in the repository -> path on the site.
INCLUDED = {
  'CHANGELOG.md': 'changelog.md',
  'CONTRIBUTING.md': 'contributing.md',
  'SECURITY.md': 'security.md',
  'vdm_jax/benchmarks/README.md': 'reproduction/measurements.md',
  'tests/originals/README.md': 'reproduction/originals.md',
  **{f'launch/colab/{name}.ipynb': f'colab/{name}.ipynb' for name in ('toy_2d', 'sample_t2v', 'train_your_own')},
  **{
    path.relative_to(REPOSITORY).as_posix(): f'reproduction/results/{path.relative_to(REPOSITORY / RESULTS).as_posix()}'
    for pattern in ('*.gif', '**/*.png')
    for path in sorted((REPOSITORY / RESULTS).glob(pattern))
  },
}
ON_SITE = {site: repository for repository, site in INCLUDED.items()}
TABLES = {
  'commands': commands.reference,
  'configuration': configuration_keys.reference,
  'configurations': models.configurations,
  'extending': extending.links,
  'hardware': hardware.table,
  'levers': hardware.levers,
  'models': models.zoo,
  'protocols': models.protocols,
}
MARKER = re.compile(r'<!-- generated: (\w+) -->')
FIGURE = re.compile(r'<!-- figure: (\d+): (.+?) -->')
LINK = re.compile(r'(!?)\[([^\]\n]*)\]\(([^)\s]+)\)')
FENCE = re.compile(r'^(```|~~~).*?^\1', re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
# Formulas of notebook pages, which reach the page as they were written, and what may hold other dollar signs.
DOLLARS = re.compile(r'(?P<display>\$\$)(.+?)\$\$|\$([^$]+?)\$', re.DOTALL)
VERBATIM = re.compile(r'<(pre|code|script|style|svg)\b.*?</\1>', re.DOTALL)
# Scripts of notebook pages that load from elsewhere.
REMOTE_SCRIPT = re.compile(r'<script(?=[^>]*>)(?:(?!</script>).)*?https?://(?:(?!</script>).)*</script>', re.DOTALL)


def on_config(config: Any) -> Any:
  """Adds pages that mkdocs.yml does not name to the navigation: guides of docs/extending/, and others under Project."""
  named = set(re.findall(r'[\w/.-]+\.md', repr(config.nav)))
  sections = {name: pages for item in config.nav for name, pages in item.items()}
  for title, path in extending.pages('**/*.md'):
    if path not in named:
      sections['Extending' if path.startswith('extending/') else 'Project'].append({title: path})
  return config


@event_priority(100)  # before mkdocs-jupyter, which looks for notebooks
def on_files(files: Files, config: Any) -> Files:
  """Adds the files of `INCLUDED`."""
  for repository, site in INCLUDED.items():
    if repository.endswith(f'/{site}'):  # mkdocs-jupyter reads notebooks from below a source folder
      folder = str(REPOSITORY / repository.removesuffix(f'/{site}'))
      files.append(File(site, folder, config.site_dir, config.use_directory_urls))
    else:
      files.append(File.generated(config, site, abs_src_path=str(REPOSITORY / repository)))
  for number, picture in figures.figures().items():
    files.append(File.generated(config, f'assets/toy_2d_{number}.png', content=picture))
  return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """Fills in tables, and turns links to repository files into links of the site."""
  markdown = MARKER.sub(lambda match: TABLES[match[1]](), markdown)
  markdown = FIGURE.sub(lambda match: f'![{match[2]}](assets/toy_2d_{match[1]}.png)', markdown)
  here = ON_SITE.get(page.file.src_uri, f'docs/{page.file.src_uri}')
  return between(FENCE, markdown, lambda text: LINK.sub(lambda match: relink(match, here, page.file.src_uri), text))


def on_page_content(content: str, page: Any, **_: Any) -> str:
  """Renders formulas as MathML."""
  if page.file.src_uri.endswith('.ipynb'):
    return between(VERBATIM, content, lambda text: DOLLARS.sub(of_notebook, text))
  return FORMULA.sub(lambda match: mathml(match[2]), content)


def on_post_page(output: str, **_: Any) -> str:
  """Removes what would be loaded from another host."""
  return REMOTE_SCRIPT.sub('', output)


def between(blocks: re.Pattern, text: str, change: Callable[[str], str]) -> str:
  """Applies `change` to the text between the matches of `blocks`."""
  done, end = [], 0
  for block in blocks.finditer(text):
    done += [change(text[end : block.start()]), block[0]]
    end = block.end()
  return ''.join([*done, change(text[end:])])


def relink(match: re.Match, here: str, page: str) -> str:
  """A link of the file `here` in the repository as `page` of the site needs it; plain text where the site has none."""
  bang, text, target = match.groups()
  path, hash_sign, anchor = target.partition('#')
  if not path or re.match(r'[a-z]+:', path):
    return match[0]
  repository = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
  if repository in INCLUDED:
    site = INCLUDED[repository]
  elif repository.startswith('docs/'):
    site = repository.removeprefix('docs/')
  elif (REPOSITORY / repository).exists():
    return text
  else:
    return match[0]  # MkDocs reports it
  return f'{bang}[{text}]({posixpath.relpath(site, posixpath.dirname(page) or ".")}{hash_sign}{anchor})'


def convert(formula: str, display: str) -> str:
  """MathML of LaTeX; latex2mathml puts no space around the names of functions."""
  formula = re.sub(r'(?<=[\w}])\s*(?=\\(?:log|ln|tan|arctan|cosh)\b)', r'\\,', html.unescape(formula))
  formula = re.sub(r'(\\(?:log|ln|tan|arctan|cosh))\s*(?=[\\\w])(?!\\left)', r'\1\\,', formula)
  return converter.convert(formula.strip(), display=display)


def mathml(formula: str) -> str:
  """MathML of an arithmatex formula, `\\(...\\)` inline or `\\[...\\]` displayed."""
  formula = formula.strip()
  return convert(formula[2:-2], 'block' if formula.startswith(r'\[') else 'inline')


def of_notebook(match: re.Match) -> str:
  """MathML of a formula between dollar signs."""
  display, shown, inline = match.groups()
  return convert(shown or inline, 'block' if display else 'inline')
