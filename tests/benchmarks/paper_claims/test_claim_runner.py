"""Running a claim: stored results, the order of trainings, and the report in closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vdm_jax.benchmarks.paper_claims import command, runner
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Run, config_of

RESULTS = Path(runner.__file__).parents[1] / 'results' / 'paper_claims'


def make(measure, arms):
  return Claim(
    name='toy',
    source='Table 0',
    statement='more is better',
    setting='none',
    cost='nothing',
    arms=arms,
    baseline='less',
    scores={'error': 'error'},
    comparisons=(Comparison('more', 'less', 'error', 'lower'),),
    measure=measure,
    draw=lambda path, rows: None,
  )


class Measure:
  """Measures an error of 10 + seed, reduced by the setting `gain`; fails after `last` calls."""

  def __init__(self, last=100):
    self.calls, self.last = [], last

  def __call__(self, workdir, seed, settings):
    if len(self.calls) == self.last:
      raise KeyboardInterrupt
    self.calls.append((workdir, seed, dict(settings)))
    return {'error': 10.0 + seed - settings.get('gain', 0.0), 'real': {'error': 1.0}}


SHIPPED = {'less': Arm('pretrained:digits'), 'more': Arm('pretrained:digits', settings={'gain': 4.0})}


def test_a_second_call_resumes_and_more_seeds_extend_it(tmp_path):
  stopped, rest = Measure(last=3), Measure()
  with pytest.raises(KeyboardInterrupt):
    runner.rows(make(stopped, SHIPPED), tmp_path, range(2))
  found = runner.rows(make(rest, SHIPPED), tmp_path, range(3))
  assert stopped.calls + rest.calls == [
    ('pretrained:digits', seed, settings) for seed in range(3) for settings in ({}, {'gain': 4.0})
  ]
  assert [row['error'] for row in found['more']] == [6.0, 7.0, 8.0]
  assert runner.rows(make(None, SHIPPED), tmp_path, range(3)) == found


def test_results_of_other_settings_are_not_replaced(tmp_path):
  runner.rows(make(Measure(), SHIPPED), tmp_path, range(2))
  path = tmp_path / 'toy' / 'more, seed 0.json'
  before = path.read_bytes()
  other = SHIPPED | {'more': Arm('pretrained:digits', settings={'gain': 5.0})}
  with pytest.raises(ValueError, match=f'{path} .* settings: .*--out'):
    runner.rows(make(Measure(), other), tmp_path, range(2))
  assert path.read_bytes() == before


def test_a_run_is_trained_once_to_each_measured_step(tmp_path, monkeypatch):
  trained = []

  def train(config, workdir):
    trained.append((Path(workdir).name, config.seed, config.training.num_steps))
    (Path(workdir) / 'checkpoints' / str(config.training.num_steps)).mkdir(parents=True)
    return 0

  monkeypatch.setattr(runner.jobs, 'train', train)
  run = Run('digits', lambda: config_of('digits'))
  arms = {'less': Arm(run, num_steps=5), 'other': Arm(run, num_steps=5, settings={'gain': 1.0}), 'more': Arm(run)}
  measure = Measure()
  runner.rows(make(measure, arms), tmp_path, range(2))
  assert trained == [(f'digits_seed_{seed}', seed, steps) for seed in range(2) for steps in (5, 2_000)]
  assert [call[0] for call in measure.calls[:3]] == [str(tmp_path / 'runs' / 'digits_seed_0')] * 3
  early = tmp_path / 'toy' / 'other, seed 1.json'  # written before this key existed
  stored = json.loads(early.read_text())
  del stored['asked']['run']['training']['clip_norm']
  early.write_text(json.dumps(stored))
  runner.rows(make(None, arms), tmp_path, range(2))
  manifest = tmp_path / 'runs/digits_seed_0/checkpoints/2000/manifest.json'
  manifest.write_text(json.dumps({'files': {'of': 'a run trained anew'}}))
  row = tmp_path / 'toy' / 'more, seed 0.json'
  row.write_text(json.dumps(json.loads(row.read_text()) | {'weights': 'of the run before'}))
  with pytest.raises(ValueError, match='more, seed 0.json was measured before .*digits_seed_0 was trained anew'):
    runner.rows(make(None, arms), tmp_path, range(1))
  row.unlink()
  measure.calls.clear()
  runner.rows(make(measure, arms), tmp_path, range(1))
  assert len(measure.calls) == 1
  (tmp_path / 'toy' / 'less, seed 1.json').unlink()
  with pytest.raises(ValueError, match='digits_seed_1 is at step 2000, past the step to measure, 5'):
    runner.rows(make(measure, arms), tmp_path, range(2))


def test_the_report_in_closed_form(tmp_path):
  claim = make(Measure(), SHIPPED)
  found = {'less': [{'error': e, 'real': {'error': 1.0}} for e in (5.0, 7.0)], 'more': [{'error': 3.0}, {'error': 4.0}]}
  report = runner.report(claim, found, 'command')
  half_width = 12.7062 * 0.5  # the differences are -2 and -3
  assert report['means'] == {'less': {'error': 6.0}, 'more': {'error': 3.5}}
  expected = {'mean': -2.5, 'half_width': pytest.approx(half_width, rel=1e-5)}
  assert report['differences'] == {'more': {'error': expected}}
  assert report['judged'][0] == claim.comparisons[0]._asdict() | expected | {'verdict': 'not shown'}
  assert runner.table(report).splitlines() == [
    '|  | error |',
    '|---|---|',
    '| less | 6.000 |',
    '| more | 3.500 (-2.500 ± 6.353) |',
    '| real clips | 1.000 |',
    '',
    '| expected | difference | verdict |',
    '|---|---|---|',
    '| error: more lower than less | -2.500 ± 6.353 | not shown |',
  ]
  runner.write(claim, report, tmp_path)
  assert json.loads((tmp_path / 'toy.json').read_text())['rows'] == found


@pytest.mark.parametrize('file', sorted(RESULTS.glob('*.json')), ids=lambda file: file.stem)
def test_published_results_follow_from_their_rows(file):
  stored = json.loads(file.read_text())
  claim = command.claims()[file.stem]
  assert stored['seeds'] >= 5
  recorded = {key: stored[key] for key in ('hardware', 'setting')}  # the setting may be described in other words
  assert runner.report(claim, stored['rows'], stored['command']) | recorded == stored
  assert file.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
