"""Prompt sets for evaluation: classes of UCF101, novel views, diversity, and failure modes.

The key `about` of each JSON file beside this module gives the source of its prompts.
"""

from __future__ import annotations

import json
from pathlib import Path

from vdm_jax.names import choose

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob('*.json')))


def read(name: str) -> tuple[str, ...]:
  """Return all prompts of a set, in order.

  Args:
    name: one of NAMES. `ucf101` has one prompt per class, in the order of the data set's classInd.txt (Snap appendix
      C.6); `diversity` those of Snap Fig. 12; `novel_views` those of appendix C.4; `failure_probes` one or more for
      each limitation of appendix F.1.

  Raises:
    ValueError: an unknown name.
  """
  return tuple(prompt for group in groups(name).values() for prompt in group)


def groups(name: str) -> dict[str, tuple[str, ...]]:
  """Return the prompts of a set by class, template or limitation.

  Raises:
    ValueError: an unknown name.
  """
  content = json.loads((FOLDER / f'{choose("prompts", name, NAMES)}.json').read_text(encoding='utf-8'))
  objects = content.get('objects')
  if objects is None:
    return {group: tuple(prompts) for group, prompts in content['prompts'].items()}
  return {
    group: tuple(template.replace('{object}', thing) for template in templates for thing in objects)
    for group, templates in content['prompts'].items()
  }
