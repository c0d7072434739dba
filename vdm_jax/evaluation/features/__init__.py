"""The networks whose features metrics compare: I3D, C3D, InceptionV3 and CLIP, with the weights users have of them.

  load('i3d', 'i3d_torchscript.pt').apply(clips)      uint8 [n t h w 3] -> Features(pool, logits)
  clip_text('clip-vit-base-patch32', folder, prompts) -> float32 [n d], in the space of the images' `pool`

name                     pool                              logits                    frames
i3d                      the 400 logits, mean over time    the same                  9 or more
c3d                      fc7 [n 4096]                      fc8 [n 101]               16
inception                pool3 [n t 2048]                  without bias [n t 1008]   any, each alone
clip-vit-base-patch32    projection [n t 512]              None                      any, each alone
clip-vit-large-patch14   projection [n t 768]              None                      any, each alone
"""

from __future__ import annotations

from vdm_jax.evaluation.features.extractor import Extractor, Features

__all__ = ['Extractor', 'Features']
