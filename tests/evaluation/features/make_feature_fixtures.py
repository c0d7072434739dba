"""Writes fixtures/: narrow random I3D, C3D, InceptionV3 and CLIP image encoders in files as torch writes them, and what
PyTorch computes with them, block by block.

The networks below are written in PyTorch from the published descriptions, with names as in the files users have.
Needs torch, which the tests do not: python tests/evaluation/features/make_feature_fixtures.py
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

OUT = Path(__file__).parent / 'fixtures'
I3D_WIDTH, C3D_WIDTH, INCEPTION_WIDTH = 1 / 60, 1 / 96, 1 / 64
CLASSES = {'i3d': 5, 'c3d': 6, 'inception': 7}
SAMPLED = 24  # values kept of every block


def scaled(channels: int, width: float) -> int:
  return max(1, round(channels * width))


def pad_same(x: torch.Tensor, kernel: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
  """TensorFlow's SAME padding: as many outputs as strides fit, an odd row at the end."""
  pads = []
  for size, k, s in reversed(list(zip(x.shape[2:], kernel, strides, strict=True))):
    total = max((-(-size // s) - 1) * s + k - size, 0)
    pads += [total // 2, total - total // 2]
  return F.pad(x, pads)


class Unit(nn.Module):
  def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
    super().__init__()
    self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
    self.conv3d = nn.Conv3d(inputs, outputs, self.kernel, self.stride, bias=False)
    self.bn = nn.BatchNorm3d(outputs, eps=1e-3)  # its weight stays 1: the original has none

  def forward(self, x):
    return F.relu(self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))))


class Mixed(nn.Module):
  def __init__(self, inputs: int, channels: list[int]):
    super().__init__()
    a, b, c, d, e, f = channels
    self.b0 = Unit(inputs, a, 1)
    self.b1a, self.b1b = Unit(inputs, b, 1), Unit(b, c, 3)
    self.b2a, self.b2b = Unit(inputs, d, 1), Unit(d, e, 3)
    self.b3b = Unit(inputs, f, 1)

  def forward(self, x):
    pooled = F.max_pool3d(pad_same(x, (3, 3, 3), (1, 1, 1)), 3, 1)  # nothing is negative, so zeros do no harm
    return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)), 1)


MIXED = {
  '3b': (64, 96, 128, 16, 32, 32),
  '3c': (128, 128, 192, 32, 96, 64),
  '4b': (192, 96, 208, 16, 48, 64),
  '4c': (160, 112, 224, 24, 64, 64),
  '4d': (128, 128, 256, 24, 64, 64),
  '4e': (112, 144, 288, 32, 64, 64),
  '4f': (256, 160, 320, 32, 128, 128),
  '5b': (256, 160, 320, 32, 128, 128),
  '5c': (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
  def __init__(self, width: float, classes: int):
    super().__init__()
    a, b, c = (scaled(n, width) for n in (64, 64, 192))
    self.Conv3d_1a_7x7, self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Unit(3, a, 7, 2), Unit(a, b, 1), Unit(b, c, 3)
    for name, channels in MIXED.items():
      channels = [scaled(n, width) for n in channels]
      self.add_module(f'Mixed_{name}', Mixed(c, channels))
      c = channels[0] + channels[2] + channels[4] + channels[5]
    self.logits = nn.ModuleDict({'conv3d': nn.Conv3d(c, classes, 1)})

  def blocks(self, x):
    out = OrderedDict()
    x = out['Conv3d_1a'] = self.Conv3d_1a_7x7(x)
    x = F.max_pool3d(pad_same(x, (1, 3, 3), (1, 2, 2)), (1, 3, 3), (1, 2, 2))
    x = out['Conv3d_2b'] = self.Conv3d_2b_1x1(x)
    x = out['Conv3d_2c'] = self.Conv3d_2c_3x3(x)
    x = F.max_pool3d(pad_same(x, (1, 3, 3), (1, 2, 2)), (1, 3, 3), (1, 2, 2))
    for name in MIXED:
      if name == '4b':
        x = F.max_pool3d(pad_same(x, (3, 3, 3), (2, 2, 2)), 3, 2)
      if name == '5b':
        x = F.max_pool3d(pad_same(x, (2, 2, 2), (2, 2, 2)), 2, 2)
      x = out[f'Mixed_{name}'] = getattr(self, f'Mixed_{name}')(x)
    x = self.logits['conv3d'](F.avg_pool3d(x, (2, 7, 7), 1))
    out['logits'] = x.squeeze(4).squeeze(3).mean(2)
    return out


class C3D(nn.Module):
  """Biases everywhere, no batch norm; names as in TGAN v2's file."""

  def __init__(self, width: float, classes: int):
    super().__init__()
    c = 3
    for name, outputs in (('1a', 64), ('2a', 128), ('3a', 256), ('3b', 256)) + tuple(
      (name, 512) for name in ('4a', '4b', '5a', '5b')
    ):
      self.add_module(f'conv{name}', nn.Conv3d(c, scaled(outputs, width), 3, padding=1))
      c = scaled(outputs, width)
    hidden = scaled(4096, width)
    self.fc6, self.fc7, self.fc8 = nn.Linear(c * 16, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)

  def blocks(self, x):
    out = OrderedDict()
    for group in (('1a',), ('2a',), ('3a', '3b'), ('4a', '4b'), ('5a', '5b')):
      for name in group:
        x = out[f'conv{name}'] = F.relu(getattr(self, f'conv{name}')(x))
      # Chainer covers every pixel: windows that hang over the end, as with ceil_mode.
      x = F.max_pool3d(x, (1, 2, 2) if group == ('1a',) else 2, ceil_mode=True)
    x = out['fc6'] = F.relu(self.fc6(x.flatten(1)))
    x = out['fc7'] = F.relu(self.fc7(x))
    out['logits'] = self.fc8(x)
    return out

  def forward(self, x):
    return self.blocks(x)['logits']


class Conv2d(nn.Module):
  def __init__(self, inputs: int, outputs: int, kernel, stride: int = 1, padding=0):
    super().__init__()
    self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

  def forward(self, x):
    return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
  """A block of InceptionV3: chains of convolutions by name, and what pools."""

  def __init__(self, inputs: int, width: float, chains: dict, pool: str):
    super().__init__()
    self.chains, self.pool, self.outputs = chains, pool, 0
    channels_of = {}
    for name, (source, channels, kernel, stride) in chains.items():
      kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
      padding = 0 if stride > 1 else tuple((k - 1) // 2 for k in kernel)
      self.add_module(name, Conv2d(channels_of.get(source, inputs), scaled(channels, width), kernel, stride, padding))
      channels_of[name] = scaled(channels, width)
    used = {source for source, *_ in chains.values()}
    self.last = [name for name in chains if name not in used]
    self.outputs = sum(channels_of[name] for name in self.last) + (inputs if pool == 'half' else 0)

  def forward(self, x):
    out = {None: x}
    if self.pool == 'average':
      out['pool'] = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    if self.pool == 'max':
      out['pool'] = F.max_pool2d(x, 3, 1, 1)
    for name, (source, *_) in self.chains.items():
      out[name] = getattr(self, name)(out[source])
    half = [F.max_pool2d(x, 3, 2)] if self.pool == 'half' else []
    return torch.cat([out[name] for name in self.last] + half, 1)


def chain(name: str, *layers: tuple) -> dict:
  """`name`_1, `name`_2, ... one after the other."""
  names = [None, *(f'{name}_{i + 1}' for i in range(len(layers)))]
  return {names[i + 1]: (names[i], *layer) for i, layer in enumerate(layers)}


def block_a(pooled: int) -> dict:
  return {
    'branch1x1': (None, 64, 1, 1),
    **chain('branch5x5', (48, 1, 1), (64, 5, 1)),
    **chain('branch3x3dbl', (64, 1, 1), (96, 3, 1), (96, 3, 1)),
    'branch_pool': ('pool', pooled, 1, 1),
  }


def block_c(inner: int) -> dict:
  row, column = ((1, 7), 1), ((7, 1), 1)
  return {
    'branch1x1': (None, 192, 1, 1),
    **chain('branch7x7', (inner, 1, 1), (inner, *row), (192, *column)),
    **chain('branch7x7dbl', (inner, 1, 1), (inner, *column), (inner, *row), (inner, *column), (192, *row)),
    'branch_pool': ('pool', 192, 1, 1),
  }


BLOCK_B = {'branch3x3': (None, 384, 3, 2), **chain('branch3x3dbl', (64, 1, 1), (96, 3, 1), (96, 3, 2))}
BLOCK_D = {
  **chain('branch3x3', (192, 1, 1), (320, 3, 2)),
  **chain('branch7x7x3', (192, 1, 1), (192, (1, 7), 1), (192, (7, 1), 1), (192, 3, 2)),
}
BLOCK_E = {
  'branch1x1': (None, 320, 1, 1),
  'branch3x3_1': (None, 384, 1, 1),
  'branch3x3_2a': ('branch3x3_1', 384, (1, 3), 1),
  'branch3x3_2b': ('branch3x3_1', 384, (3, 1), 1),
  **chain('branch3x3dbl', (448, 1, 1), (384, 3, 1)),
  'branch3x3dbl_3a': ('branch3x3dbl_2', 384, (1, 3), 1),
  'branch3x3dbl_3b': ('branch3x3dbl_2', 384, (3, 1), 1),
  'branch_pool': ('pool', 192, 1, 1),
}
BLOCKS = {
  **{f'Mixed_5{x}': (block_a(pooled), 'average') for x, pooled in (('b', 32), ('c', 64), ('d', 64))},
  'Mixed_6a': (BLOCK_B, 'half'),
  **{f'Mixed_6{x}': (block_c(inner), 'average') for x, inner in (('b', 128), ('c', 160), ('d', 160), ('e', 192))},
  'Mixed_7a': (BLOCK_D, 'half'),
  'Mixed_7b': (BLOCK_E, 'average'),
  'Mixed_7c': (BLOCK_E, 'max'),
}


class Inception(nn.Module):
  def __init__(self, width: float, classes: int):
    super().__init__()
    a, b, c, d, e = (scaled(n, width) for n in (32, 32, 64, 80, 192))
    self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv2d(3, a, 3, 2), Conv2d(a, b, 3)
    self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = Conv2d(b, c, 3, padding=1), Conv2d(c, d, 1)
    self.Conv2d_4a_3x3 = Conv2d(d, e, 3)
    for name, (chains, pool) in BLOCKS.items():
      block = Block(e, width, chains, pool)
      self.add_module(name, block)
      e = block.outputs
    self.fc = nn.Linear(e, classes)

  def blocks(self, x):
    out = OrderedDict()
    for name in ('Conv2d_1a_3x3', 'Conv2d_2a_3x3', 'Conv2d_2b_3x3', 'Conv2d_3b_1x1', 'Conv2d_4a_3x3', *BLOCKS):
      x = out[name] = getattr(self, name)(x)
      if name in ('Conv2d_2b_3x3', 'Conv2d_4a_3x3'):
        x = F.max_pool2d(x, 3, 2)
    out['pool'] = x.mean((2, 3))
    out['logits'] = out['pool'] @ self.fc.weight.T  # without the bias
    return out


def randomize(model: nn.Module, seed: int) -> None:
  """Weights that no initialisation has: every part of a batch norm matters, its epsilon too."""
  rng = np.random.default_rng(seed)

  def set_to(tensor: torch.Tensor, values: np.ndarray) -> None:
    tensor.data.copy_(torch.tensor(values.astype(np.float32)))

  for module in model.modules():
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
      shape = tuple(module.weight.shape)
      set_to(module.weight, rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:])))
      last = module
      if module.bias is not None:
        set_to(module.bias, 0.1 * rng.normal(size=shape[0]))
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
      n = module.num_features
      variance = 10 ** rng.uniform(-3, 0, size=n)
      set_to(module.running_var, variance)
      set_to(last.weight, last.weight.numpy() * np.sqrt(variance + 1e-3).reshape(-1, *(1,) * (last.weight.ndim - 1)))
      set_to(module.running_mean, 0.2 * np.sqrt(variance) * rng.normal(size=n))
      if isinstance(module, nn.BatchNorm2d):
        set_to(module.weight, rng.uniform(0.8, 1.3, size=n))
      set_to(module.bias, 0.2 * rng.normal(size=n) + 0.4)  # so that layers of one channel stay alive
  model.eval()


def resized_like_tensorflow_1(frames: np.ndarray, new: int) -> np.ndarray:
  """Pixel i of the new frame is at i size/new of the old one, whose last row and column repeat; [... h w c]."""
  frames = frames.astype(np.float64)
  for axis in (-3, -2):
    size = frames.shape[axis]
    at = np.arange(new) * (size / new)
    low = np.floor(at).astype(int)
    share = (at - low).reshape([-1 if a == axis else 1 for a in range(-frames.ndim, 0)])
    frames = frames.take(low, axis) * (1 - share) + frames.take(np.minimum(low + 1, size - 1), axis) * share
  return frames


def resized_by_torch(frames: np.ndarray, new: int, align_corners: bool) -> np.ndarray:
  flat = torch.tensor(frames.reshape(-1, *frames.shape[-3:]).astype(np.float64)).permute(0, 3, 1, 2)
  made = F.interpolate(flat, (new, new), mode='bilinear', align_corners=align_corners).permute(0, 2, 3, 1)
  return made.numpy().reshape(*frames.shape[:-3], new, new, frames.shape[-1])


def channels_first(x: np.ndarray) -> torch.Tensor:
  return torch.tensor(np.moveaxis(x, -1, 1).astype(np.float32))


def sampled(x: torch.Tensor) -> np.ndarray:
  """Evenly spaced values, with channels last."""
  flat = torch.movedim(x, 1, -1).flatten().numpy() if x.ndim > 2 else x.flatten().numpy()
  return flat[np.linspace(0, len(flat) - 1, min(SAMPLED, len(flat))).astype(int)]


def mean_clip() -> np.ndarray:
  """A mean clip [3 16 128 171] that no two pixels of a row share; the tests make the same."""
  return np.fromfunction(lambda c, t, h, w: 90 + 5 * c + t + h / 8 - w / 16, (3, 16, 128, 171)).astype(np.float32)


def make_i3d(out: dict, clips: np.ndarray) -> None:
  model = I3D(I3D_WIDTH, CLASSES['i3d'])
  randomize(model, 1)
  inputs = {
    'i3d': resized_like_tensorflow_1(clips, 224),
    'i3d-stylegan-v': resized_by_torch(clips, 224, align_corners=False),
  }
  for name, resized in inputs.items():
    x = channels_first(2 * resized / 255 - 1)
    out |= {f'{name}/{block}': sampled(y) for block, y in model.blocks(x).items() if name == 'i3d' or block == 'logits'}
  state = {name: value for name, value in model.state_dict().items() if not name.endswith(('bn.weight', 'tracked'))}
  torch.save(state, OUT / 'i3d_pretrained_400.pt')


def make_c3d(out: dict, clips: np.ndarray) -> None:
  model = C3D(C3D_WIDTH, CLASSES['c3d'])
  randomize(model, 2)
  resized = resized_by_torch(clips, 112, align_corners=True)[..., ::-1]
  mean = np.moveaxis(mean_clip()[:, :, 8:120, 8:120], 0, -1)
  out |= {f'c3d/{block}': sampled(y) for block, y in model.blocks(channels_first(resized - mean)).items()}
  torch.jit.trace(model, torch.zeros(1, 3, 16, 112, 112)).save(str(OUT / 'c3d_ucf101.pt'))


def make_inception(out: dict, frames: np.ndarray) -> None:
  model = Inception(INCEPTION_WIDTH, CLASSES['inception'])
  randomize(model, 4)
  x = channels_first((resized_like_tensorflow_1(frames, 299) - 128) / 128)
  out |= {f'inception/{block}': sampled(y) for block, y in model.blocks(x).items()}
  state = {name: value for name, value in model.state_dict().items() if not name.endswith('tracked')}
  torch.save(state, OUT / 'pt_inception.pth', _use_new_zipfile_serialization=False)


def make_clip(out: dict, frames: np.ndarray) -> None:
  import transformers

  config = transformers.CLIPVisionConfig(
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    patch_size=6,
    image_size=24,
    projection_dim=12,
    hidden_act='quick_gelu',
    attn_implementation='eager',
  )
  model = transformers.CLIPVisionModelWithProjection(config).eval()
  rng = np.random.default_rng(4)
  state = {
    name: torch.tensor(rng.normal(size=tensor.shape).astype(np.float32) * 0.5)
    for name, tensor in sorted(model.state_dict().items())
    if not name.endswith('position_ids')
  }
  model.load_state_dict(state, strict=False)
  mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
  images = []
  for frame in frames:  # 12 x 17: the shorter side to 24, the longer to 34 and cut from 5 on
    resized = np.asarray(Image.fromarray(frame).resize((34, 24), Image.Resampling.BICUBIC))[:, 5:29]
    images.append((resized / 255 - mean) / std)
  made = model(pixel_values=channels_first(np.stack(images)))
  out['clip/projected'] = made.image_embeds.numpy()
  save_file(state, OUT / 'clip_vision.safetensors')


def make_odd_file(out: dict) -> None:
  """Everything that a tensor of a state dictionary can be."""
  torch.manual_seed(0)
  base = torch.arange(24.0).reshape(2, 3, 4)
  tensors = {
    'half': base.half(),
    'bfloat16': base.bfloat16(),
    'double': base.double(),
    'transposed': base.permute(2, 0, 1),
    'slice': base[:, 1:, ::2],
    'scalar': torch.tensor(7),
    'empty': torch.zeros(0, 3),
    'parameter': nn.Parameter(base[0]),
  }
  tensors |= {'shared': tensors['half'][1]}
  torch.save({'epoch': 3, 'note': 'a word', 'rate': 0.1, 'state': OrderedDict(tensors)}, OUT / 'odd.pt')
  floats = {name: tensor.detach().float() for name, tensor in tensors.items()}
  out |= {f'odd/{name}': tensor.numpy() for name, tensor in floats.items()}


@torch.no_grad()
def main():
  OUT.mkdir(exist_ok=True)
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (1, 16, 12, 17, 3), dtype=np.uint8)
  out = {'clips': clips}
  make_i3d(out, clips[:, :9])
  make_c3d(out, clips)
  make_inception(out, clips[0, :2])
  make_clip(out, clips[0, :2])
  make_odd_file(out)
  np.savez_compressed(OUT / 'features.npz', **out)


if __name__ == '__main__':
  main()
