"""Published tables as figures, and the metrics and settings that protocols of both papers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vdm_jax.evaluation.protocols.contract import Figure, Metric

VDM, SNAP = 'Video Diffusion Models', 'Snap Video'
CLIP = 'clip-vit-base-patch32'  # ViT-B/32, with which CLIPSIM was introduced (GODIVA, section 4)

FVD = Metric('fvd', 'frechet', 'i3d', 'logits')
FID = Metric('fid', 'frechet', 'inception', frames='each')
CLIPSIM = Metric('clipsim', 'similarity', CLIP, frames='each')
STEPS = (8, 16, 32, 64, 128, 256)
# A guidance weight that is the same at every step, which a sweep over weights or steps needs.
CONSTANT_GUIDANCE = (('guidance_low', 0.0), ('guidance_start', 0.0))


def sized(metric: Metric, *sizes: tuple[int, int]) -> tuple[Metric, ...]:
  """Return the metric at several center crops, named by width and height as in the papers."""
  return tuple(metric._replace(name=f'{metric.name}_{width}x{height}', size=(height, width)) for height, width in sizes)


def table(
  source: str, names: Sequence[tuple[str, Sequence[str]]], rows: Sequence[tuple[Mapping, Sequence[float]]]
) -> tuple[Figure, ...]:
  """Return the figures of a table: `names` are its columns, (metric, variants); a row is its setting and its numbers.

  >>> [figure.value for figure in table('Table 9', [('fvd', ('train', 'test'))], [({'data.frame_skip': 1}, (2.5, 3))])]
  [2.5, 3]
  """
  columns = [(metric, variant) for metric, variants in names for variant in variants]
  return tuple(
    Figure(metric, variant, value, None, source, tuple(setting.items()))
    for setting, values in rows
    for (metric, variant), value in zip(columns, values, strict=True)
  )


def ancestral(num_steps: int, *, gamma: float, langevin_delta: float = 0.0) -> dict[str, float | str]:
  """Return the setting of VDM's sampler (appendix A)."""
  return {
    'sampling.step': 'ancestral',
    'sampling.num_steps': num_steps,
    'sampling.gamma': gamma,
    'sampling.langevin_delta': langevin_delta,
  }
