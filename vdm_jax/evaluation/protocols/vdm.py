"""The protocols of Video Diffusion Models (Ho et al. 2022), with their published values."""

from __future__ import annotations

from vdm_jax.evaluation.protocols.contract import Figure, Metric, Protocol
from vdm_jax.evaluation.protocols.tables import CONSTANT_GUIDANCE, FVD, STEPS, VDM, ancestral, table

_T2V_COLUMNS = [
  ('fvd', ('train', 'test')),
  ('fid_avg', ('train', 'test')),
  ('is_avg', ('splits_1', 'splits_10')),
  ('fid_first', ('train', 'test')),
  ('is_first', ('splits_1', 'splits_10')),
]
_T2V_SAMPLER = ancestral(256, gamma=0.3)
_SMALL = {'model.base_channels': 128, 'data.frame_skip': 1, **_T2V_SAMPLER, 'sampling.guidance_weight': 0.0}
_LARGE = {'model.base_channels': 256, 'data.num_images': 8, **_T2V_SAMPLER}
# The paper prints 1 + w as guidance weights 1, 2 and 5.
_T2V_PUBLISHED = table(
  f'{VDM}, Table 4',
  _T2V_COLUMNS,
  [
    ({'data.num_images': 0} | _SMALL, (202.28, 205.42, 37.52, 37.40, 7.91, 7.58, 41.14, 40.87, 9.23, 8.74)),
    ({'data.num_images': 4} | _SMALL, (68.11, 70.74, 18.62, 18.42, 9.02, 8.53, 22.54, 22.19, 10.58, 9.91)),
    ({'data.num_images': 8} | _SMALL, (57.84, 60.72, 15.57, 15.44, 9.32, 8.82, 19.25, 18.98, 10.81, 10.12)),
  ],
) + table(
  f'{VDM}, Table 5',
  _T2V_COLUMNS,
  [
    ({'data.frame_skip': skip, 'sampling.guidance_weight': weight} | _LARGE, values)
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
# The replacement method redraws given frames at every step, which for gamma = 0.3 is `redraw` here.
_T2V_64_PUBLISHED = table(
  f'{VDM}, Table 6',
  _T2V_COLUMNS,
  [
    ({'sampling.guidance_weight': weight, 'sampling.conditioning': method} | _LARGE, values)
    for weight, method, values in (
      (1.0, 'reconstruction', (136.22, 134.55, 13.77, 13.62, 10.30, 9.66, 16.34, 16.46, 14.67, 13.37)),
      (1.0, 'redraw', (451.45, 436.16, 25.95, 25.52, 7.00, 6.75, 16.33, 16.46, 14.67, 13.34)),
      (4.0, 'reconstruction', (133.92, 133.04, 13.59, 13.58, 10.31, 9.65, 16.28, 16.53, 15.09, 13.72)),
      (4.0, 'redraw', (456.24, 441.93, 26.05, 25.69, 7.04, 6.78, 16.30, 16.54, 15.11, 13.69)),
    )
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
    Figure('fid', 'train', 295.0, 3.0, f'{VDM}, Table 1', tuple(ancestral(256, gamma=0.1).items())),
    Figure('is', 'splits_10', 57.0, 0.62, f'{VDM}, Table 1', tuple(ancestral(256, gamma=0.1).items())),
  ),
  calibration=(Figure('is', 'splits_10', 60.2, None, f'{VDM}, Table 1, real data'),),
  notes='The model is trained on all 13,320 clips (data.train_on_all); the reference is one window of each. Clips are '
  'resized as data.resize says: the paper takes those of the TFDS loader without further processing, which are 240x320 '
  'or, by its default, squashed to a square; ucf101.py squashes them, while data.resize=cover takes the center square. '
  'Not stated in the paper: the layer of the FID (here fc7, as in the code it cites), the number of windows per '
  'clip, and what its spreads measure. FVD is measured too; the paper reports none.',
)

_KINETICS = {
  steps: tuple((ancestral(steps, gamma=0.0, langevin_delta=delta) | {'sampling.reconstruction_weight': 9.0}).items())
  for steps, delta in ((256, 0.0), (128, 0.1))
}
VDM_KINETICS = Protocol(
  name='vdm-kinetics600-50k',
  source=f'{VDM}, section 4.2 and Table 3',
  task='prediction',
  metrics=(FVD, Metric('is', 'inception', 'i3d', 'logits')),
  references=('test',),
  test_set=True,
  height=64,
  width=64,
  num_frames=16,
  given_frames=5,
  num_samples=50_000,
  num_references=50_000,
  training_clips=10_000,
  published=(
    Figure('fvd', 'test', 18.6, None, f'{VDM}, Table 3', _KINETICS[256]),
    Figure('is', 'splits_10', 15.39, None, f'{VDM}, Table 3', _KINETICS[256]),
    Figure('fvd', 'test', 16.2, 0.34, f'{VDM}, Table 3', _KINETICS[128]),
    Figure('is', 'splits_10', 15.64, None, f'{VDM}, Table 3', _KINETICS[128]),
  ),
  notes='One random window of each of 50,000 clips of the test set (about 60,000), drawn without replacement, is both '
  'the reference and what samples continue; the validation set, with about 30,000 clips, cannot take its place. '
  'Samples are the 5 given frames and the 11 predicted ones. The Inception Score is of the I3D network, whose classes '
  'are the 400 of Kinetics-400, not the 600 of the data. Not stated in the paper: the number of splits of the '
  'Inception Score, and its classes.',
)

VDM_KINETICS_REPLACEMENT = VDM_KINETICS._replace(
  name='vdm-kinetics600-50k-replacement',
  replacement=True,
  published=(Figure('fvd', 'test', 16.9, None, f'{VDM}, section 4.2', _KINETICS[128]),),
  notes='As vdm-kinetics600-50k, but clips are drawn with replacement, with different seeds for the given frames '
  'and the reference.',
)

_BAIR = {
  steps: tuple((ancestral(steps, gamma=0.0, langevin_delta=delta) | {'sampling.reconstruction_weight': 50.0}).items())
  for steps, delta in ((512, 0.0), (256, 0.1))
}
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
    Figure('fvd', 'test', 68.19, None, f'{VDM}, Table 2', _BAIR[512]),
    Figure('fvd', 'test', 66.92, None, f'{VDM}, Table 2', _BAIR[256]),
  ),
  notes='100 samples that continue each of the 256 test clips, compared to these clips. Samples are the given frame '
  'and the 15 predicted ones. Not stated in the paper: which window of a clip; here its first 16 frames.',
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
  guidance_sampling=CONSTANT_GUIDANCE,
  num_steps=STEPS,
  steps_sampling=CONSTANT_GUIDANCE,
  published=_T2V_PUBLISHED,
  notes='Captions are those of the test split. Not stated in the paper: which captions, the number of clips in '
  'the references, and the guidance weight of Table 4, taken as none. Averages over frames are of activations: for the '
  'Inception Score of logits, before the softmax.',
)

VDM_T2V_64 = VDM_T2V._replace(
  name='vdm-t2v-64',
  source=f'{VDM}, section 4.3.3 and Table 6',
  num_frames=64,
  model_frames=16,
  overlap=8,
  guidance_weights=(1.0, 4.0),
  published=_T2V_64_PUBLISHED,
  notes='64 frames from a model of 16 frames, by autoregressive extension: each block of 16 sees the last 8 frames of '
  "the one before, so that there are 7 blocks. The paper's replacement method is sampling.conditioning=redraw, which "
  'is exact for its gamma of 0.3. Real clips have 64 frames at data.frame_skip. Not stated in the paper: the overlap, '
  'the reconstruction weight (here sampling.reconstruction_weight, which the record holds), the frame skip, and what '
  'vdm-t2v-4096 lists.',
)
