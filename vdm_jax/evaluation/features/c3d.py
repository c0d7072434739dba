"""C3D (Tran et al. 2015), fine-tuned on UCF101: for FID and Inception Score of videos as TGAN v2 computes them.

Its input is uint8 BGR at 112x112 minus a mean clip. Features are the output of fc7, logits that of fc8.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.evaluation.features.inference_layers import Conv, scaled
from vdm_jax.types import Array

SIZE = 112
FRAMES = 16
MEAN_SHAPE = (3, FRAMES, 128, 171)  # [c t h w] in mean2.npz, BGR
MEAN_CORNER = 8  # first row and column of its crop to SIZE

# Channels of the convolutions; a pool follows each group.
GROUPS = (
  {'conv1a': 64},
  {'conv2a': 128},
  {'conv3a': 256, 'conv3b': 256},
  {'conv4a': 512, 'conv4b': 512},
  {'conv5a': 512, 'conv5b': 512},
)
HIDDEN = 4096
POOLED = (1, 4, 4)  # frames, rows and columns after the last pool


class C3D(nn.Module):
  """Videos to logits, with the output of every layer.

  The input of the last pool is 7x7 pixels, and its last window is partly outside, as in Caffe and Chainer. PyTorch
  ports that pad a row on both sides instead have other windows, and other features.
  """

  classes: int = 101
  width: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    """x float32 [b 16 112 112 3], BGR in [0, 255] -> outputs by name; 'fc7' [b d], 'logits' [b classes]."""
    blocks = {}
    x = x + self.param('bias', nn.initializers.zeros, x.shape[1:])  # minus the mean clip
    for i, group in enumerate(GROUPS):
      for name, channels in group.items():
        x = blocks[name] = Conv(scaled(channels, self.width), (3, 3, 3), name=name)(x)
      window, over = (2 if i else 1, 2, 2), (0, x.shape[2] % 2)
      x = nn.max_pool(x, window, window, ((0, 0), over, over))
    x = blocks['pool5'] = jnp.reshape(x, (len(x), -1))
    hidden = scaled(HIDDEN, self.width)
    x = blocks['fc6'] = nn.relu(nn.Dense(hidden, precision='highest', name='fc6')(x))
    x = blocks['fc7'] = nn.relu(nn.Dense(hidden, precision='highest', name='fc7')(x))
    blocks['logits'] = nn.Dense(self.classes, precision='highest', name='fc8')(x)
    return blocks
