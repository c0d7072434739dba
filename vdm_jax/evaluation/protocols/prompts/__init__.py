"""Prompts to judge models by: UCF101's classes, novel views, diversity, and what the paper says goes wrong.

The JSON files beside this module say in `about` where their prompts come from.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob('*.json')))


def read(name: str) -> tuple[str, ...]:
  """All prompts of one of NAMES, in their order. Raises ValueError for another name.

  `ucf101` has one for each class, in the order of the data set's classInd.txt (Snap appendix C.6); `diversity` those of
  Snap Fig. 12; `novel_views` those of appendix C.4; `failure_probes` one or more for each limitation of appendix F.1.
  """
  return tuple(prompt for group in groups(name).values() for prompt in group)


def groups(name: str) -> dict[str, tuple[str, ...]]:
  """The prompts of one of NAMES by class, template or limitation. Raises ValueError for another name."""
  if name not in NAMES:
    raise ValueError(f'there are no prompts {name!r}: choose one of {", ".join(NAMES)}.')
  content = json.loads((FOLDER / f'{name}.json').read_text(encoding='utf-8'))
  objects = content.get('objects')
  if objects is None:
    return {group: tuple(prompts) for group, prompts in content['prompts'].items()}
  return {
    group: tuple(template.replace('{object}', thing) for template in templates for thing in objects)
    for group, templates in content['prompts'].items()
  }
