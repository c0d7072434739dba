"""Video diffusion in JAX: Video Diffusion Models and Snap Video as one framework.

    model, params = vdm_jax.load('runs/digits')

The rooms are packages of their own: `vdm_jax.diffusion`, `vdm_jax.sampling`, `vdm_jax.networks`, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vdm_jax.checkpoints import export_weights, load

__all__ = ['export_weights', 'load']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
  """Imports on first use: a process that only reads data need not import the rest."""
  if name in __all__:
    from vdm_jax import checkpoints

    return getattr(checkpoints, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
