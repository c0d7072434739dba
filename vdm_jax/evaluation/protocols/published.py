"""The protocols of both papers, with their published values and the tables these are from."""

from __future__ import annotations

from collections.abc import Sequence

from vdm_jax.evaluation.protocols.contract import Figure, Metric, Protocol

VDM, SNAP = 'Video Diffusion Models', 'Snap Video'
CLIP = 'clip-vit-base-patch32'  # ViT-B/32, with which CLIPSIM was introduced (GODIVA, section 4)

FVD = Metric('fvd', 'frechet', 'i3d', 'logits')
STEPS = (8, 16, 32, 64, 128, 256)
# Snap Fig. 5, caption.
SNAP_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0)


def _sized(metric: Metric, *sizes: tuple[int, int]) -> tuple[Metric, ...]:
  """The metric at several center crops of the same videos, named by width and height as in the papers."""
  return tuple(metric._replace(name=f'{metric.name}_{width}x{height}', size=(height, width)) for height, width in sizes)


def _sampler(num_steps: int, langevin_delta: float) -> tuple[tuple[str, float], ...]:
  return ('sampling.num_steps', num_steps), ('sampling.langevin_delta', langevin_delta)


def _table(
  source: str, names: Sequence[tuple[str, Sequence[str]]], rows: Sequence[tuple[dict, Sequence[float]]]
) -> tuple[Figure, ...]:
  """The figures of a table: `names` are its columns, (metric, variants); a row is its setting and its numbers."""
  columns = [(metric, variant) for metric, variants in names for variant in variants]
  return tuple(
    Figure(metric, variant, value, None, source, tuple(setting.items()))
    for setting, values in rows
    for (metric, variant), value in zip(columns, values, strict=True)
  )


_T2V_COLUMNS = [
  ('fvd', ('train', 'test')),
  ('fid_avg', ('train', 'test')),
  ('is_avg', ('splits_1', 'splits_10')),
  ('fid_first', ('train', 'test')),
  ('is_first', ('splits_1', 'splits_10')),
]
# The paper prints 1 + w as guidance weights 1, 2 and 5.
_T2V_PUBLISHED = _table(
  f'{VDM}, Table 4',
  _T2V_COLUMNS,
  [
    ({'data.num_images': 0}, (202.28, 205.42, 37.52, 37.40, 7.91, 7.58, 41.14, 40.87, 9.23, 8.74)),
    ({'data.num_images': 4}, (68.11, 70.74, 18.62, 18.42, 9.02, 8.53, 22.54, 22.19, 10.58, 9.91)),
    ({'data.num_images': 8}, (57.84, 60.72, 15.57, 15.44, 9.32, 8.82, 19.25, 18.98, 10.81, 10.12)),
  ],
) + _table(
  f'{VDM}, Table 5',
  _T2V_COLUMNS,
  [
    ({'data.frame_skip': skip, 'sampling.guidance_weight': weight}, values)
    for skip, weight, values in (
      (1, 0.0, (41.65, 43.70, 12.49, 12.39, 10.80, 10.07, 16.42, 16.19, 12.17, 11.22)),
      (1, 1.0, (50.19, 48.79, 10.53, 10.47, 13.22, 12.10, 13.91, 13.75, 14.81, 13.46)),
      (1, 4.0, (163.74, 160.21, 13.54, 13.52, 14.80, 13.46, 17.07, 16.95, 16.40, 14.75)),
      (4, 0.0, (56.71, 60.30, 11.03, 10.93, 9.40, 8.90, 16.21, 15.96, 11.39, 10.61)),
      (4, 1.0, (54.28, 51.95, 9.39, 9.36, 11.53, 10.75, 14.21, 14.04, 13.81, 12.63)),
      (4, 4.0, (185.89, 176.82, 11.82, 11.78, 13.73, 12.59, 16.59, 16.44, 16.24, 14.62)),
    )
  ],
)

_SNAP_COLUMNS = [('fid', ('test',)), ('fvd', ('test',)), ('clipsim', ('mean',))]
_INTERNAL_PUBLISHED = _table(
  f'{SNAP}, Table 2',
  _SNAP_COLUMNS,
  [
    ({'model': 'U-Net 85M'}, (8.21, 45.94, 0.2319)),
    ({'model': 'U-Net 284M'}, (4.90, 23.76, 0.2391)),
    ({'model': 'FIT 500M'}, (3.07, 27.79, 0.2459)),
    ({'model': 'FIT 3.9B'}, (2.51, 12.31, 0.2579)),
  ],
) + _table(
  f'{SNAP}, Table 3',
  _SNAP_COLUMNS,
  [
    ({'model.sigma_data': 0.5, 'model.sigma_in': 1.0}, (6.58, 39.95, 0.2370)),
    ({'model.sigma_data': 0.5, 'model.sigma_in': 4.0}, (4.03, 31.00, 0.2449)),
    ({'model.sigma_data': 1.0, 'model.sigma_in': 2.0}, (4.45, 34.89, 0.2428)),
    ({'model.image_sigma_in': 1.0}, (3.50, 24.88, 0.2469)),
    ({'model.sigma_data': 1.0, 'model.sigma_in': 4.0}, (3.07, 27.79, 0.2459)),
  ],
)

VDM_UCF101 = Protocol(
  name='vdm-ucf101-c3d-10k',
  source=f'{VDM}, section 4.1 and Table 1',
  task='unconditional',
  metrics=(Metric('fid', 'frechet', 'c3d'), Metric('is', 'inception', 'c3d', 'logits'), FVD),
  references=('train',),
  height=64,
  width=64,
  num_frames=16,
  num_samples=10_000,
  num_references=None,
  published=(
    Figure('fid', 'train', 295.0, 3.0, f'{VDM}, Table 1'),
    Figure('is', 'splits_10', 57.0, 0.62, f'{VDM}, Table 1'),
  ),
  calibration=(Figure('is', 'splits_10', 60.2, None, f'{VDM}, Table 1, real data'),),
  notes='The model is trained on all 13,320 clips (data.train_on_all); the reference is one window of each. Not '
  'stated in the paper: the layer of the FID (here fc7, as in the code it cites), the number of windows per '
  'clip, and what its spreads measure. FVD is measured too; the paper reports none.',
)

VDM_KINETICS = Protocol(
  name='vdm-kinetics600-50k',
  source=f'{VDM}, section 4.2 and Table 3',
  task='prediction',
  metrics=(FVD, Metric('is', 'inception', 'i3d', 'logits')),
  references=('test',),
  height=64,
  width=64,
  num_frames=16,
  given_frames=5,
  num_samples=50_000,
  num_references=50_000,
  training_clips=10_000,
  published=(
    Figure('fvd', 'test', 18.6, None, f'{VDM}, Table 3', _sampler(256, 0.0)),
    Figure('is', 'splits_10', 15.39, None, f'{VDM}, Table 3', _sampler(256, 0.0)),
    Figure('fvd', 'test', 16.2, 0.34, f'{VDM}, Table 3', _sampler(128, 0.1)),
    Figure('is', 'splits_10', 15.64, None, f'{VDM}, Table 3', _sampler(128, 0.1)),
  ),
  notes='One random window of each of 50,000 clips of the test split, drawn without replacement, is both the '
  'reference and what samples continue. Samples are the 5 given frames and the 11 predicted ones. Not stated '
  'in the paper: the number of splits of the Inception Score.',
)

VDM_T2V = Protocol(
  name='vdm-t2v-4096',
  source=f'{VDM}, section 4.3 and Tables 4, 5',
  task='captions',
  metrics=(
    FVD,
    Metric('fid_avg', 'frechet', 'inception', frames='mean'),
    Metric('is_avg', 'inception', 'inception', 'logits', frames='mean'),
    Metric('fid_first', 'frechet', 'inception', frames='first'),
    Metric('is_first', 'inception', 'inception', 'logits', frames='first'),
  ),
  references=('train', 'test'),
  height=64,
  width=64,
  num_frames=16,
  num_samples=4096,
  num_references=4096,
  training_clips=4096,
  guidance_weights=(0.0, 1.0, 4.0),
  num_steps=STEPS,
  published=_T2V_PUBLISHED,
  notes='Captions are those of the test split. Not stated in the paper: which captions, and the number of clips in '
  'the references. Averages over frames are of activations: for the Inception Score of logits, before the '
  'softmax.',
)

_SNAP_SIZES = ((288, 288), (288, 512))
_ZERO_SHOT = {'height': 288, 'width': 512, 'num_frames': 16, 'references': ('test',), 'frame_rate': 24.0}
SNAP_UCF101 = Protocol(
  name='snap-ucf101-10k',
  source=f'{SNAP}, sections 4.2, 4.4 and C.6, Table 4',
  task='classes',
  metrics=(
    *_sized(FVD, *_SNAP_SIZES),
    *_sized(Metric('fid', 'frechet', 'inception', frames='each'), *_SNAP_SIZES),
    *_sized(Metric('is', 'inception', 'c3d', 'logits'), *_SNAP_SIZES),
  ),
  num_samples=10_000,
  num_references=None,
  prompts='ucf101',
  original_size=(240, 320),
  published=tuple(
    Figure(f'{metric}_{size}', variant, value, None, f'{SNAP}, Table 4')
    for size, values in (('288x288', (260.1, 39.0, 38.89)), ('512x288', (200.2, 28.1, 38.89)))
    for (metric, variant), value in zip((('fvd', 'test'), ('fid', 'test'), ('is', 'splits_10')), values, strict=True)
  ),
  notes='The square videos are the center of the wide ones. Classes are those of clips drawn from the reference. '
  'Not stated in the paper: the split of the reference (here the test split), the network and frames of FID '
  '(here InceptionV3, each frame), and the network of the Inception Score (here C3D).',
  **_ZERO_SHOT,
)

SNAP_MSRVTT = Protocol(
  name='snap-msrvtt-59800',
  source=f'{SNAP}, sections 4.2 and 4.4, Table 5',
  task='captions',
  metrics=(
    *_sized(Metric('clip_fid', 'frechet', CLIP, frames='each'), *_SNAP_SIZES),
    *_sized(FVD, *_SNAP_SIZES),
    *_sized(Metric('clipsim', 'similarity', CLIP, frames='each'), *_SNAP_SIZES),
  ),
  num_samples=59_800,
  num_references=2_990,
  prompt_file=True,
  published=tuple(
    Figure(f'{metric}_{size}', variant, value, None, f'{SNAP}, Table 5')
    for size, values in (('288x288', (8.48, 110.4, 0.2793)), ('512x288', (9.35, 104.0, 0.2793)))
    for (metric, variant), value in zip(
      (('clip_fid', 'test'), ('fvd', 'test'), ('clipsim', 'mean')), values, strict=True
    )
  ),
  notes='One sample for each of the 20 captions of the 2,990 test clips. Not stated in the paper: the variant of '
  'CLIP (here ViT-B/32), and the frames of CLIP-FID (here each frame).',
  **_ZERO_SHOT,
)

SNAP_INTERNAL = Protocol(
  name='snap-internal-50k',
  source=f'{SNAP}, sections 4.2, 4.3 and C.1, Tables 2, 3, Figs. 5, 6',
  task='captions',
  metrics=(
    Metric('fid', 'frechet', 'inception', frames='each'),
    FVD,
    Metric('clipsim', 'similarity', CLIP, frames='each'),
  ),
  references=('test',),
  height=36,
  width=64,
  num_frames=16,
  num_samples=50_000,
  num_references=50_000,
  training_clips=10_000,
  guidance_weights=SNAP_WEIGHTS,
  guidance_sampling=(
    ('step', 'heun'),
    ('num_steps', 40),
    ('gamma', 0.0),
    ('churn', 0.0),
    ('churn_noise', 1.0),
    ('churn_min', 0.0),
    ('churn_max', 0.0),
    ('langevin_delta', 0.0),
    ('guidance_low', 0.0),
    ('guidance_start', 0),
  ),
  num_steps=STEPS,
  samplers=('ddim', 'heun', 'ancestral'),
  sweep_samples=10_000,
  published=_INTERNAL_PUBLISHED,
  notes='Uses the data of the run, as the paper uses its own: values on other data are not comparable. Not stated '
  'in the paper: the size of the reference, the frames of FID (here each frame), the variant of CLIP (here '
  'ViT-B/32), and the steps and samplers of Fig. 6, which are drawn but not listed.',
)

VDM_BAIR = Protocol(
  name='vdm-bair-100x256',
  source=f'{VDM}, section 4.2 and Table 2',
  task='prediction',
  metrics=(FVD,),
  references=('test',),
  height=64,
  width=64,
  num_frames=16,
  given_frames=1,
  window='first',
  num_samples=25_600,
  num_references=256,
  training_clips=10_000,
  published=(
    Figure('fvd', 'test', 68.19, None, f'{VDM}, Table 2', _sampler(512, 0.0)),
    Figure('fvd', 'test', 66.92, None, f'{VDM}, Table 2', _sampler(256, 0.1)),
  ),
  notes='100 samples that continue each of the 256 test clips, compared to these clips. Samples are the given frame '
  'and the 15 predicted ones. Not stated in the paper: which window of a clip; here its first 16 frames.',
)

VDM_KINETICS_REPLACEMENT = VDM_KINETICS._replace(
  name='vdm-kinetics600-50k-replacement',
  replacement=True,
  published=(Figure('fvd', 'test', 16.9, None, f'{VDM}, section 4.2', _sampler(128, 0.1)),),
  notes='As vdm-kinetics600-50k, but clips are drawn with replacement, with different seeds for the given frames '
  'and the reference.',
)

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
