"""Imported first by the commands: shows that they are loading while their other imports, seconds long, last."""

from __future__ import annotations

import sys

from vdm_jax.runtime import progress

COMMANDS = ('vdm_jax.main', 'vdm_jax.data.__main__', 'vdm_jax.text.__main__')

_spec = getattr(sys.modules['__main__'], '__spec__', None)
if getattr(_spec, 'name', None) in COMMANDS or sys.argv[0].endswith('/vdm_jax'):
  progress.start('loading')
