"""The table of claims, invalid arguments, and a complete claim at toy size, from training to report."""

from __future__ import annotations

import itertools
import json

import pytest

from vdm_jax import configuration, models
from vdm_jax.benchmarks.paper_claims import (
  appended_images,
  architecture,
  command,
  conditioning,
  input_scaling,
  prediction,
)
from vdm_jax.benchmarks.paper_claims.claim import Arm, Run


def test_every_claim_is_consistent():
  for name, claim in command.claims().items():
    assert claim.name == name and claim.baseline in claim.arms
    for of, to, score, expected in claim.comparisons:
      assert {of, to} <= set(claim.arms) and score in claim.scores and expected in ('lower', 'higher')
    for arm in claim.arms.values():
      if isinstance(arm.run, Run):
        config = arm.run.config()
        configuration.validate(config)
        models.build(config.model, encode=lambda captions: None)
        assert arm.num_steps <= config.training.num_steps


def test_arms_differ_only_in_the_claimed_factor():
  runs = [appended_images.run(images).config() for images in appended_images.IMAGES]
  assert [config.data.num_images for config in runs] == [0, 4, 8]
  for config in runs:
    config.data.num_images = 0
  assert all(a.to_dict() == b.to_dict() for a, b in itertools.pairwise(runs))
  arms = input_scaling.CLAIM.arms | input_scaling.IMAGES.arms
  runs = [arm.run.config() for arm in arms.values()]
  for config in runs:
    config.model.sigma_in, config.data.image_rate, config.data.num_images = 4.0, 0.0, 0
    config.model.update(frame_logsnr='shared', image_sigma_in=0.0)
  assert all(a.to_dict() == b.to_dict() for a, b in itertools.pairwise(runs))
  paper = [arm.run.config() for arm in input_scaling.SNAP.arms.values()]
  assert {(config.model.parameterization, config.model.patch_size) for config in paper} == {('snap', 4)}
  for config in paper:
    config.model.update(sigma_in=4.0, parameterization='x', patch_size=8)
    assert config.to_dict() == runs[0].to_dict()
  trained = conditioning.trained()
  trained.model.frame_logsnr = 'shared'
  assert trained.to_dict() == conditioning.RUN.config().to_dict()
  for points in prediction.POINTS:  # a Langevin step evaluates twice but for the last
    few, many = (prediction.settings_of(sampler, points)['num_steps'] for sampler in ('Langevin', 'ancestral'))
    assert 2 * few - 1 == many
  edm = configuration.default().model
  assert (runs[0].model.lognormal_mean, runs[0].model.lognormal_std) == (edm.lognormal_mean, edm.lognormal_std)
  fit, unet = (arm.run.config() for arm in architecture.CLAIM.arms.values())
  unet.data.batch_size = fit.data.batch_size
  assert (fit.data.to_dict(), fit.sampling.to_dict()) == (unet.data.to_dict(), unet.sampling.to_dict())
  same = ('process', 'sigma_in', 'parameterization', 'sigma_data', 'logsnr', 'lognormal_mean', 'lognormal_std')
  assert all(fit.model[key] == unet.model[key] for key in same)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--out=x', '--seeds=1'], '--seeds=1 is too few'),
    (['--out=x', '--claims=table_9'], '--claims=table_9 is unknown: choose from gradient_variance, '),
    ([], '--out is missing'),
  ],
)
def test_invalid_arguments_are_rejected(arguments, message, capsys):
  with pytest.raises(SystemExit):
    command.main(arguments)
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_resumes(tmp_path, monkeypatch, capsys):
  names = ('replacement', 'reconstruction, w=1')

  def tiny():
    config = conditioning.RUN.config()
    config.model.update(base_channels=8, norm_groups=4, head_width=8, embedding_width=16, channel_multipliers=(1,))
    config.model.update(attention_resolutions=(8,))
    config.training.update(num_steps=2, checkpoint_every=2, preview_every=0, heldout_every=0, warmup_steps=1)
    config.sampling.update(num_steps=2)
    return config

  arms = {name: Arm(Run('tiny', tiny), settings=conditioning.METHODS[name]) for name in names}
  claim = conditioning.CLAIM._replace(arms=arms, comparisons=())
  monkeypatch.setattr(command, 'claims', lambda: {'conditioning': claim})
  for name, value in (('VIDEOS', 2), ('NUM_FRAMES', 12), ('NUM_STEPS', 2)):
    monkeypatch.setattr(conditioning, name, value)
  command.main(arguments := [f'--out={tmp_path}', '--seeds=2'])
  printed = capsys.readouterr().out
  report = json.loads((tmp_path / 'conditioning.json').read_text())
  for row in report['rows'][names[1]]:
    assert row['error_of_frame'][:4] == [0.0] * 4, 'given frames are exact'
    assert row['prediction_error'] == pytest.approx(sum(row['error_of_frame'][4:8]) / 4)
    assert row['extension_error'] == pytest.approx(sum(row['error_of_frame'][8:]) / 4)
  assert report['rows'][names[0]][0]['error_of_frame'] != report['rows'][names[0]][1]['error_of_frame']
  assert (tmp_path / 'conditioning.png').read_bytes().startswith(b'\x89PNG')

  def fail(*args):
    raise AssertionError('already done')

  monkeypatch.setattr(command.runner.jobs, 'train', fail)
  monkeypatch.setattr(command, 'claims', lambda: {'conditioning': claim._replace(measure=fail)})
  command.main(arguments)
  assert capsys.readouterr().out == printed
