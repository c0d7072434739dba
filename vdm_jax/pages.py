"""Self-contained HTML pages that show the files beside them, from disk and offline.

Hand-written because every text on a page comes from a user: it is escaped, and a content security policy forbids all
scripts but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

GENERATOR = 'vdm_jax'  # marks pages that this package wrote
# A page may load files beside it: nothing from the network, and no script but its own, whose hash is filled in.
_POLICY = (
  "default-src 'none'; img-src 'self' file: data:; media-src 'self' file:; style-src 'unsafe-inline'; "
  "base-uri 'none'; form-action 'none'; script-src {script}"
)

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1d1d1f; --quiet: #64646b; --line: #dededb;
  --accent: #0b5fbd; }
@media (prefers-color-scheme: dark) { :root { --paper: #161617; --card: #1f1f21; --ink: #ececee; --quiet: #a2a2aa;
  --line: #37373b; --accent: #7db4f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; font-weight: 600; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 2.25rem 0 .75rem; overflow-wrap: anywhere; max-height: 9rem;
  overflow: auto; }
p { margin: .25rem 0; max-width: 44rem; }
.quiet, figcaption { color: var(--quiet); font-size: .875rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
button { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: .375rem; padding: .3rem .9rem; cursor: pointer; }
button:hover { border-color: var(--accent); }
button:disabled { opacity: .45; cursor: default; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
figure video, figure img { display: block; width: 100%; height: auto; background: #000; image-rendering: pixelated; }
figure.plain img { background: #fff; image-rendering: auto; max-width: 100%; width: auto; margin: 0 auto; }
figcaption { padding: .4rem .7rem; display: flex; gap: .75rem; justify-content: space-between; flex-wrap: wrap; }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 400; color: var(--quiet); white-space: nowrap; width: 1%; }
details { margin-top: 2.25rem; }
summary { cursor: pointer; font-weight: 600; }
"""


def page(title: str, body: str, *, style: str = '', script: str = '') -> str:
  """Return an HTML document.

  Args:
    title: any text.
    body: markup, with all user text passed through `text` and file names through `url`.
    style: further CSS.
    script: JavaScript.
  """
  # The browser hashes the script as parsed, with line feeds only.
  script = script.replace('\r\n', '\n')
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = _POLICY.format(script=f"'sha256-{digest}'" if script else "'none'")
  head = [
    '<meta charset="utf-8">',
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="referrer" content="no-referrer">',
    f'<meta name="generator" content="{GENERATOR}">',
    '<link rel="icon" href="data:,">',
    f'<title>{text(title)}</title>',
    f'<style>{STYLE}{style}</style>',
  ]
  lines = ['<!doctype html>', '<html lang="en">', '<head>', *head, '</head>', '<body>', body]
  return '\n'.join([*lines, *([f'<script>{script}</script>'] if script else []), '</body>', '</html>', ''])


def text(value: Any) -> str:
  """Escape any value for use between tags or in a quoted attribute; control characters become U+FFFD.

  >>> text('<b> & "c"')
  '&lt;b&gt; &amp; &quot;c&quot;'
  """
  shown = (c if c in '\t\n' or unicodedata.category(c) not in ('Cc', 'Cs') else '\ufffd' for c in str(value))
  return html.escape(''.join(shown), quote=True)


def url(path: str | PurePosixPath) -> str:
  """Return the URL of a file below the folder of the page, for a quoted attribute.

  >>> url('a b#c.mp4')
  './a%20b%23c.mp4'
  """
  return quote('./' + PurePosixPath(path).as_posix(), safe='/-._~')


def table(rows: Mapping[str, Any]) -> str:
  """Return a table of names and values in two columns."""
  lines = [
    f'<tr><th scope="row">{text(name)}</th><td dir="auto">{text(value)}</td></tr>' for name, value in rows.items()
  ]
  return '\n'.join(['<table>', *lines, '</table>'])


def embedded(name: str, value: Any) -> str:
  """Return an element with a value as JSON, for the page's script to read; no text in it can close the element."""
  content = json.dumps(value).replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')
  return f'<script type="application/json" id="{text(name)}">{content}</script>'
