"""Crop."""

from vdm_jax.video.display import Crop


def read_crop(path, stream):
  return Crop()
