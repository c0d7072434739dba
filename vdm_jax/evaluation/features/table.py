"""The table of feature networks. To add one: write one file of this folder (see `contract`), and enter it here."""

from __future__ import annotations

from vdm_jax.evaluation.features import clip_image, convolutional
from vdm_jax.evaluation.features.contract import FeatureNetwork

_I3D_FILES = ('i3d_torchscript.pt', 'i3d_pretrained_400.pt')

FEATURE_NETWORKS: dict[str, FeatureNetwork] = {
  'i3d': convolutional.entry('i3d', _I3D_FILES),
  'i3d-stylegan-v': convolutional.entry('i3d-stylegan-v', _I3D_FILES),
  'c3d': convolutional.entry('c3d', ('conv3d_deepnetA_ucf.npz', 'c3d_ucf101.pt')),
  'inception': convolutional.entry('inception', ('pt_inception-2015-12-05-*.pth', 'inception-2015-12-05.pt')),
  'clip-vit-base-patch32': clip_image.entry('clip-vit-base-patch32'),
  'clip-vit-large-patch14': clip_image.entry('clip-vit-large-patch14'),
}
