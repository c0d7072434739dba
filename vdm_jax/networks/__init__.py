"""Network architectures: plain Flax modules that know nothing of diffusion."""

from vdm_jax.networks.fit import FIT
from vdm_jax.networks.unet3d import UNet3D

__all__ = ['FIT', 'UNet3D']
