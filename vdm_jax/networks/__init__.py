"""Network architectures: plain Flax modules that know nothing of diffusion."""

from vdm_jax.networks.unet3d import UNet3D

__all__ = ['UNet3D']
