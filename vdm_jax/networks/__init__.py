"""Network architectures: linen modules that know nothing of diffusion, and the contract that they satisfy."""

from vdm_jax.networks.contract import VideoNetwork, decay_mask
from vdm_jax.networks.fit import FIT
from vdm_jax.networks.unet3d import UNet3D

__all__ = ['FIT', 'UNet3D', 'VideoNetwork', 'decay_mask']
