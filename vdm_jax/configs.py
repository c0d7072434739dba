"""The experiments in `configs/` as a package: in a checkout this module points to that folder.

`from vdm_jax.configs import digits` thus works from a checkout without installation, from an editable installation and
from a wheel, where setup.cfg installs `configs/` as `vdm_jax/configs/`, which takes precedence over this module.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / 'configs')]
