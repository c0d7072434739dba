"""Video diffusion in JAX: Video Diffusion Models and Snap Video in one framework.

    model, params = vdm_jax.load('runs/digits')

Everything else is imported from its package: `vdm_jax.diffusion`, `vdm_jax.sampling`, `vdm_jax.networks`, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vdm_jax.runs import Run, export_weights, load

__all__ = ['Run', 'export_weights', 'load']
__version__ = '0.2.0'


def __getattr__(name: str) -> Any:
  """Import a public name on first use, so that a process that only reads data does not import the rest."""
  if name in __all__:
    from vdm_jax import runs

    return getattr(runs, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
