"""Feature networks that metrics compare: I3D, C3D, InceptionV3 and CLIP, with their published weights.

  load('i3d', 'i3d_torchscript.pt').apply(clips)                     uint8 [n t h w 3] -> Features(pool, logits)
  load_text_encoder('clip-vit-base-patch32', folder).apply(captions) float32 [n d], in the space of the images' `pool`

name                     pool                              logits                    frames      resized to
i3d                      400 logits, mean over time        the same                  9 or more   224, as TensorFlow 1
i3d-stylegan-v           the same network                                                        224, as PyTorch
c3d                      fc7 [n 4096]                      fc8 [n 101]               16          112, as Chainer
inception                pool3 [n t 2048]                  without bias [n t 1008]   each alone  299, as TensorFlow 1
clip-vit-base-patch32    projection [n t 512]              None                      each alone  224, as Pillow
clip-vit-large-patch14   projection [n t 768]              None                      each alone  224, as Pillow

All compute in float32. Files are read without the code that wrote them, and nothing in them is executed. To add a
network, see `contract` and `table`.
"""

from __future__ import annotations

from vdm_jax.evaluation.features.contract import Extractor, FeatureNetwork, Features, Network, TextExtractor
from vdm_jax.evaluation.features.loading import load, load_text_encoder
from vdm_jax.evaluation.features.table import FEATURE_NETWORKS

__all__ = [
  'FEATURE_NETWORKS',
  'Extractor',
  'FeatureNetwork',
  'Features',
  'Network',
  'TextExtractor',
  'load',
  'load_text_encoder',
]
