"""How FIT cuts a video into patch tokens, and these into groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from einops import rearrange

from vdm_jax.types import Array


class Layout(NamedTuple):
  """The cut of a video into groups of patch tokens; every triple is over frames, rows and columns.

  >>> layout = Layout(patch=(1, 4, 4), group=(16, 5, 4), groups=(1, 2, 4))
  >>> layout.grid
  (16, 10, 16)
  >>> import numpy as np
  >>> x = np.random.default_rng(0).normal(size=(1, 16, 40, 64, 3))
  >>> tokens = layout.split(layout.patchify(x))
  >>> tokens.shape
  (1, 8, 320, 48)
  >>> np.array_equal(layout.unpatchify(layout.join(tokens)), x)
  True
  """

  patch: tuple[int, int, int]  # pixels of a patch
  group: tuple[int, int, int]  # tokens of a group
  groups: tuple[int, int, int]  # groups of a video

  @property
  def grid(self) -> tuple[int, ...]:
    """Tokens of a video along each axis."""
    return tuple(n * g for n, g in zip(self.groups, self.group, strict=True))

  def patchify(self, x: Array) -> Array:
    """Return the patches as tokens on the grid: `[b t h w c] -> [b T H W patch * c]`."""
    p, q, r = self.patch
    return rearrange(x, 'b (t p) (h q) (w r) c -> b t h w (p q r c)', p=p, q=q, r=r)

  def unpatchify(self, tokens: Array) -> Array:
    """Invert `patchify`."""
    p, q, r = self.patch
    return rearrange(tokens, 'b t h w (p q r c) -> b (t p) (h q) (w r) c', p=p, q=q, r=r)

  def split(self, tokens: Array) -> Array:
    """Cut the grid into contiguous blocks: `[b T H W d] -> [b groups tokens d]`."""
    (t, h, w), (i, j, k) = self.group, self.groups
    return rearrange(tokens, 'b (i t) (j h) (k w) d -> b (i j k) (t h w) d', i=i, j=j, k=k, t=t, h=h, w=w)

  def join(self, groups: Array) -> Array:
    """Invert `split`."""
    (t, h, w), (i, j, k) = self.group, self.groups
    return rearrange(groups, 'b (i j k) (t h w) d -> b (i t) (j h) (k w) d', i=i, j=j, k=k, t=t, h=h, w=w)


def regroup(latents: Array, groups: Sequence[int], finer: Sequence[int]) -> Array:
  """Return latents `[l d]`, stored group by group, in the order of a finer division: each stays where it was in space.

  Every group is divided into equal blocks of groups, among which its latents are shared.

  Args:
    latents: equally many for each group, in the order of `Layout.split`.
    groups, finer: groups over frames, rows and columns; each number of `groups` divides that of `finer`.

  >>> import numpy as np
  >>> regroup(np.arange(8)[:, None], (1, 1, 2), (1, 2, 4)).ravel().tolist()  # four of each half, in a grid of 2 x 4
  [0, 1, 4, 5, 2, 3, 6, 7]
  """
  (i, j, k), (p, q, r) = groups, (fine // coarse for fine, coarse in zip(finer, groups, strict=True))
  return rearrange(latents, '(i j k p q r m) d -> (i p j q k r m) d', i=i, j=j, k=k, p=p, q=q, r=r)


def main_effect(table: Array, axis: int) -> Array:
  """Return the part of a table of positions `[T H W d]` that depends on one axis alone, `[n d]`.

  The three parts sum to the least-squares approximation of the table by such a sum: each is the mean over the two other
  axes, less two thirds of the mean of all.

  >>> import numpy as np
  >>> table = np.arange(2.0)[:, None, None, None] + np.arange(3.0)[:, None, None] + np.ones((1, 1, 4, 1))
  >>> parts = [main_effect(table, axis) for axis in range(3)]
  >>> np.allclose(parts[0][:, None, None] + parts[1][:, None] + parts[2], table)
  True
  """
  others = tuple(other for other in range(3) if other != axis)
  return table.mean(others) - 2 / 3 * table.mean((0, 1, 2))


def make_layout(size: Sequence[int], patch_size: Sequence[int], group_size: Sequence[int]) -> Layout:
  """Return the layout of videos of `size` frames, rows and columns.

  Raises:
    ValueError: a triple is not three positive sizes, or patches do not divide the video, or groups the patches.
  """
  for name, triple in (('patch_size', patch_size), ('group_size', group_size)):
    if len(triple) != 3 or min(triple) < 1:
      raise ValueError(f'model.{name}={triple} must be three positive sizes: frames, rows, columns.')
  names = ('data.num_frames', 'data.height', 'data.width')
  grid = [
    divide(name, number, f'model.patch_size[{i}]', patch_size[i])
    for i, (name, number) in enumerate(zip(names, size, strict=True))
  ]
  groups = [
    divide(f'{name} in patches', tokens, f'model.group_size[{i}]', group_size[i])
    for i, (name, tokens) in enumerate(zip(names, grid, strict=True))
  ]
  return Layout(tuple(patch_size), tuple(group_size), tuple(groups))


def divide(name: str, number: int, by_name: str, by: int) -> int:
  """Return number / by, or raise ValueError with the remainder and the nearest values that divide."""
  if by > 0 and number > 0 and number % by == 0:
    return number // by
  remedies = {}
  if by > 0:
    remedies[name] = {max(number // by, 1) * by, max(-(-number // by), 1) * by}
  if by_name.startswith('model.'):
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below, above = [d for d in divisors if d <= by] or [1], [d for d in divisors if d >= by] or divisors[-1:]
    remedies[by_name] = {below[-1], *above[:1]}
  either = ', or '.join(f'{key}={" or ".join(map(str, sorted(near)))}' for key, near in remedies.items())
  raise ValueError(f'{name}={number} / {by_name}={by} leaves {number % by if by > 0 else number}: use {either}.')
