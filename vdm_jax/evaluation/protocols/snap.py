"""The protocols of Snap Video (Menapace et al. 2024), with their published values."""

from __future__ import annotations

from vdm_jax.evaluation.protocols.contract import Metric, Protocol
from vdm_jax.evaluation.protocols.tables import CLIP, CLIPSIM, CONSTANT_GUIDANCE, FID, FVD, SNAP, STEPS, sized, table

# Fig. 5, caption.
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0)
# What Figs. 5 and 6 do not vary. Dynamic thresholding is the remedy for what Fig. 5 shows, so x_hat is clipped only.
_PLAIN_SAMPLING = (
  *CONSTANT_GUIDANCE,
  ('threshold', 'clip'),
  ('gamma', 0.0),
  ('churn', 0.0),
  ('churn_noise', 1.0),
  ('churn_min', 0.0),
  ('churn_max', 0.0),
  ('langevin_delta', 0.0),
)

_COLUMNS = [('fid', ('test',)), ('fvd', ('test',)), ('clipsim', ('mean',))]
_PROCESS = {'model.parameterization': 'snap', 'model.sigma_data': 1.0, 'model.sigma_in': 4.0}
_FIT_500M = {'model.network': 'fit', 'model.latent_width': 1024}
_INTERNAL_PUBLISHED = table(
  f'{SNAP}, Table 2',
  _COLUMNS,
  [
    ({'model.network': 'unet3d', 'model.base_channels': 128} | _PROCESS, (8.21, 45.94, 0.2319)),
    ({'model.network': 'unet3d', 'model.base_channels': 192} | _PROCESS, (4.90, 23.76, 0.2391)),
    (_FIT_500M | _PROCESS, (3.07, 27.79, 0.2459)),
    ({'model.network': 'fit', 'model.latent_width': 3072} | _PROCESS, (2.51, 12.31, 0.2579)),
  ],
) + table(
  f'{SNAP}, Table 3',
  _COLUMNS,
  [
    (
      _FIT_500M | {'model.parameterization': 'edm', 'model.sigma_data': 0.5, 'model.sigma_in': 1.0},
      (6.58, 39.95, 0.2370),
    ),
    (_FIT_500M | _PROCESS | {'model.sigma_data': 0.5}, (4.03, 31.00, 0.2449)),
    (_FIT_500M | _PROCESS | {'model.sigma_in': 2.0}, (4.45, 34.89, 0.2428)),
    (_FIT_500M | _PROCESS | {'images': 'single frames with sigma_in=1'}, (3.50, 24.88, 0.2469)),
    (_FIT_500M | _PROCESS, (3.07, 27.79, 0.2459)),
  ],
)

_SIZES = ((288, 288), (288, 512))
_CASCADE = {'model.network': 'fit', 'model.latent_width': 3072, 'model.upsampling': 8, 'sampling.num_steps': 40}
_ZERO_SHOT = {
  'height': 288,
  'width': 512,
  'num_frames': 16,
  'references': ('test',),
  'real_split': 'test',
  'frame_rate': 24.0,
}
_CLIPS = (
  'Real clips have 24 frames per second like the samples: the frames nearest in time are taken, and slower clips are '
  'left out with a warning. The square videos are the center of the wide ones; the square real clips are cut from the '
  'original frames. A model that is not conditioned on frame rate has that of its training. '
)
SNAP_UCF101 = Protocol(
  name='snap-ucf101-10k',
  source=f'{SNAP}, sections 4.2, 4.4 and C.6, Table 4',
  task='classes',
  metrics=(
    *sized(FVD, *_SIZES),
    *sized(FID, *_SIZES),
    *sized(Metric('is', 'inception', 'c3d', 'logits'), *_SIZES),
  ),
  num_samples=10_000,
  num_references=None,
  prompts='ucf101',
  original_size=(240, 320),
  published=table(
    f'{SNAP}, Table 4',
    [
      (f'{metric}_{size}', (variant,))
      for size in ('288x288', '512x288')
      for metric, variant in (('fvd', 'test'), ('fid', 'test'), ('is', 'splits_10'))
    ],
    [(_CASCADE, (260.1, 39.0, 38.89, 200.2, 28.1, 38.89))],
  ),
  notes=_CLIPS + 'Classes are those of clips drawn from the reference. Not stated in the paper: the split of the '
  'reference (here the test split), the network and frames of FID (here InceptionV3, each frame), the network of the '
  'Inception Score (here C3D), and how the square real clips are made.',
  **_ZERO_SHOT,
)

SNAP_MSRVTT = Protocol(
  name='snap-msrvtt-59800',
  source=f'{SNAP}, sections 4.2 and 4.4, Table 5',
  task='captions',
  metrics=(
    *sized(Metric('clip_fid', 'frechet', CLIP, frames='each'), *_SIZES),
    *sized(FVD, *_SIZES),
    *sized(CLIPSIM, *_SIZES),
  ),
  num_samples=59_800,
  num_references=2_990,
  prompt_file=True,
  test_set=True,
  published=table(
    f'{SNAP}, Table 5',
    [
      (f'{metric}_{size}', (variant,))
      for size in ('288x288', '512x288')
      for metric, variant in (('clip_fid', 'test'), ('fvd', 'test'), ('clipsim', 'mean'))
    ],
    [(_CASCADE, (8.48, 110.4, 0.2793, 9.35, 104.0, 0.2793))],
  ),
  notes=_CLIPS + 'One sample for each of the 20 captions of the 2,990 test clips, which lie in a folder `test`. Not '
  'stated in the paper: the variant of CLIP (here ViT-B/32), the frames of CLIP-FID (here each frame), and how the '
  'square real clips are made.',
  **_ZERO_SHOT,
)

SNAP_INTERNAL = Protocol(
  name='snap-internal-50k',
  source=f'{SNAP}, sections 4.2, 4.3 and C.1, Tables 2, 3, Figs. 5, 6',
  task='captions',
  metrics=(FID, FVD, CLIPSIM),
  references=('test',),
  height=36,
  width=64,
  num_frames=16,
  num_samples=50_000,
  num_references=50_000,
  frame_rate=24.0,
  training_clips=10_000,
  guidance_weights=WEIGHTS,
  guidance_sampling=(('step', 'heun'), ('num_steps', 40), *_PLAIN_SAMPLING),
  num_steps=STEPS,
  steps_sampling=_PLAIN_SAMPLING,
  samplers=('ddim', 'heun', 'ancestral'),
  sweep_samples=10_000,
  published=_INTERNAL_PUBLISHED,
  notes='Uses the data of the run, as the paper uses its own: values on other data are not comparable. Real clips and '
  'samples have 24 frames per second; slower clips are left out. Both sweeps use a constant guidance weight (for the '
  "steps: the run's) and clip x_hat to [-1, 1], where the paper may not threshold at all. Not stated in the paper: the "
  'size of the reference, its frame rate, the frames of FID (here each frame), the variant of CLIP (here ViT-B/32), '
  'the guidance of Tables 2 and 3, and the steps, samplers and guidance weight of Fig. 6 (drawn, but not listed).',
)

SNAP_INTERNAL_UPSAMPLED = Protocol(
  name='snap-internal-288x512',
  source=f'{SNAP}, section 3.4: the search for the noise level of the second stage',
  task='captions',
  metrics=(FID, FVD, CLIPSIM),
  references=('test',),
  height=288,
  width=512,
  num_frames=16,
  num_samples=10_000,
  num_references=10_000,
  frame_rate=24.0,
  training_clips=10_000,
  sweep_samples=2_048,
  notes='Both stages, on clips held out from the training data, so that --sweep=augmentation chooses the noise level '
  'of the low-resolution input without the test sets of the paper. The videos of the first stage are sampled once and '
  'kept. Not stated in the paper: the data, metric and number of samples of that search (here 2,048 per level).',
)
