"""Protocols of neither paper: that of StyleGAN-V's code, and one for models of any size."""

from __future__ import annotations

from vdm_jax.evaluation.features import FEATURE_NETWORKS
from vdm_jax.evaluation.protocols.contract import Metric, Protocol
from vdm_jax.evaluation.protocols.tables import CLIPSIM, FID, FVD, STEPS

STYLEGAN_V = Protocol(
  name='stylegan-v-2048',
  source='StyleGAN-V (Skorokhodov et al. 2022), fvd2048_16f of its code',
  task='unconditional',
  metrics=(FVD._replace(network='i3d-stylegan-v'),),
  references=('train',),
  height=256,
  width=256,
  num_frames=16,
  num_samples=2048,
  num_references=2048,
  training_clips=2048,
  notes='2,048 samples compared to 2,048 clips of the train split, one random window each. Published values depend '
  'on the data set and are not listed here.',
)


def adapt(protocol: Protocol, shape: tuple[int, int, int, int], has_prompts: bool) -> Protocol:
  """Return the protocol for videos of another size.

  Args:
    protocol: the protocol.
    shape: frames, height, width and channels of a video.
    has_prompts: whether the videos have prompts. Without them there is no CLIPSIM; with fewer frames than a network of
      clips takes, not its metrics.

  >>> [metric.name for metric in adapt(OWN, (8, 32, 32, 1), has_prompts=False).metrics]
  ['fid', 'is']
  """
  num_frames, height, width, channels = shape
  fits = [
    metric
    for metric in protocol.metrics
    if _fewest_frames(metric.network) <= num_frames and (has_prompts or metric.kind != 'similarity')
  ]
  return protocol._replace(
    metrics=tuple(fits),
    task='captions' if has_prompts else 'unconditional',
    height=height,
    width=width,
    num_frames=num_frames,
    channels=channels,
  )


def _fewest_frames(name: str) -> int:
  entry = FEATURE_NETWORKS[name]
  return entry.network(entry.standin_width).frames[0]


OWN = Protocol(
  name='own',
  source='vdm_jax',
  task='captions',
  metrics=(FVD, FID, Metric('is', 'inception', 'inception', 'logits', frames='mean'), CLIPSIM),
  references=('test',),
  height=0,
  width=0,
  num_frames=0,
  num_samples=2048,
  num_references=2048,
  fewer_references=True,
  training_clips=2048,
  guidance_weights=(0.0, 0.5, 1.0, 2.0, 4.0, 8.0),
  num_steps=STEPS,
  adapt=adapt,
  notes='Measures videos of any size against held-out clips of the same size: 2,048, or all if there are fewer. Values '
  'depend on the size, the data and the number of clips, so they are comparable only with those of other models of the '
  'same data at the same size, by this protocol. Without prompts there is no CLIPSIM, and below 9 frames no FVD.',
)
