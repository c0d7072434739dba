"""Videos that exist already are measured by the protocols' own code, without a run."""

from __future__ import annotations

import json
from unittest import mock

import numpy as np
import pytest
from helpers.clip_files import make_clip, write_frames, write_mp4

from vdm_jax import configuration, jobs
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS, EvalOptions, Metric, Protocol, evaluate_run
from vdm_jax.evaluation.features import Extractor, Features
from vdm_jax.evaluation.features.contract import TextExtractor
from vdm_jax.evaluation.video_folder import VideoFolder

SMALL = Protocol(
  name='small',
  source='a test',
  task='captions',
  metrics=(Metric('fvd', 'frechet', 'i3d', 'logits'),),
  references=('test',),
  height=16,
  width=24,
  num_frames=7,
  num_samples=6,
  num_references=6,
)


def load(name, path, **options):
  """A network that sees means of pixels."""

  def apply(videos):
    rows = videos.astype(np.float32).mean((1, 2, 3) if name == 'i3d' else (2, 3)) / 64
    return Features(rows, rows)

  return Extractor(name, 'random:0 of a test', 1, None, apply)


@pytest.fixture
def networks(monkeypatch):
  monkeypatch.setattr('vdm_jax.evaluation.feature_files.features.load', load)
  encoder = TextExtractor('clip', 'random', lambda captions: np.ones((len(captions), 3), np.float32))
  monkeypatch.setattr('vdm_jax.evaluation.feature_files.features.load_text_encoder', lambda *_, **options: encoder)


@pytest.fixture
def clips(tmp_path):
  """A test set of six clips, and the section `data` that names it."""
  (tmp_path / 'clips/test').mkdir(parents=True)
  for i in range(6):
    np.save(tmp_path / f'clips/test/{i}.npy', make_clip(i))
  config = configuration.default()
  config.data.update(name='folder', path=str(tmp_path / 'clips'), frame_rate=8.0)
  return config


@pytest.fixture
def videos(tmp_path):
  """The same six clips as another model's videos, in every kind of file."""
  folder = tmp_path / 'videos'
  folder.mkdir()
  for i, write in enumerate([write_mp4, lambda path, clip: np.save(path, clip), write_frames] * 2):
    suffix = {0: '.mp4', 1: '.npy', 2: ''}[i % 3]
    write(folder / f'{i:04}-a_dog-{i % 2}{suffix}', make_clip(i))
  return folder


def evaluate(config, folder, protocol=SMALL, **options):
  with mock.patch.dict(PROTOCOLS, {protocol.name: protocol}):
    chosen = {'protocol': protocol.name, 'features': 'random', 'batch_size': 4, 'videos': str(folder)} | options
    return evaluate_run(config, None, EvalOptions(**chosen))


def test_videos_that_are_the_reference_have_distance_zero(clips, videos, networks, capfd):
  record = evaluate(clips, videos)
  assert record['metrics']['fvd']['test']['value'] == pytest.approx(0, abs=1e-4)
  assert record['counts'] == {'samples': 6, 'test': 6} and 'step' not in record and 'sampling' not in record
  assert record['videos'] == {'folder': str(videos), 'prompts': 'names'}
  assert json.loads((videos / 'evaluation/small.json').read_text())['videos'] == record['videos']
  np.save(videos / '0001-a_dog-1.npy', 255 - make_clip(1))
  assert evaluate(clips, videos)['metrics']['fvd']['test']['value'] > 0.01, 'a replaced file is read again'
  own = evaluate(clips, videos, PROTOCOLS['own'])
  assert own['size'] == (7, 16, 24, 3) and set(own['metrics']) == {'fid', 'is', 'clipsim'}
  assert own['counts']['samples'] == 6


def test_prompts_are_those_of_the_list_or_of_the_names(videos, tmp_path):
  folder = VideoFolder(videos)
  assert folder.prompts == ['a dog 0', 'a dog 1'] * 3 and len(folder) == 6
  np.testing.assert_array_equal(folder.videos([0, 1, 2], (7, 16, 24, 3)), [make_clip(i) for i in range(3)])
  assert folder.by_prompt(['a dog 1', 'a dog 0', 'a dog 1']) == [1, 0, 3]
  with pytest.raises(InvalidInput, match="has 3 videos of 'a dog 1', but the protocol needs 4"):
    folder.by_prompt(['a dog 1'] * 4)
  write_mp4(videos / '0001-a_dog-1.mp4', make_clip(9))  # a lossy copy beside the array, as --mode=sample writes
  lines = [{'file_name': f'{i:04}-a_dog-{i % 2}.mp4', 'text': f'number {i}'} for i in range(6)]
  (videos / 'videos.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  folder = VideoFolder(videos)
  assert folder.prompts == [f'number {i}' for i in range(6)] and folder.prompts_from == 'videos.jsonl'
  np.testing.assert_array_equal(folder.videos([1], (7, 16, 24, 3))[0], make_clip(1))
  (videos / 'videos.jsonl').write_text(json.dumps(lines[0]))
  with pytest.raises(InvalidInput, match=r'videos.jsonl does not list 0001-a_dog-1.npy, nor 4 others'):
    VideoFolder(videos)


@pytest.mark.parametrize(
  ('changes', 'options', 'message'),
  [
    ({'num_samples': 9}, {}, 'measures 9 videos, but --videos=.* has 6: .*--limit=6'),
    ({'num_frames': 6}, {}, '0000-a_dog-0.mp4 has 7 x 16 x 24 .* measures 6 x 16 x 24'),
    ({}, {'sweep': 'steps'}, '--sweep has no effect with --videos'),
    ({}, {'real_vs_real': True}, '--real_vs_real has no effect with --videos'),
    ({}, {'prompt_file': 'prompts.txt'}, '--prompt_file has no effect with --videos'),
    ({}, {'videos': 'nowhere'}, '--videos=nowhere is not a folder'),
  ],
)
def test_what_cannot_be_measured_is_refused(clips, videos, networks, changes, options, message):
  with pytest.raises(InvalidInput, match=message):
    evaluate(clips, videos, SMALL._replace(**changes), **options)
  assert not list(videos.glob('evaluation/small*.json'))


def test_protocols_with_prompts_of_their_own_read_the_videos_of_each(videos, clips, tmp_path, capsys):
  def score(generate, section, *, seed, num_trained):
    made = generate(['a dog 1', 'a dog 0'])
    return {'protocol': 'score', 'num_videos': 2, 'score': float(made[0].mean()), 'trained': num_trained}

  clips.data.update(num_frames=7, height=16, width=24, channels=3)
  protocol = SMALL._replace(name='score', metrics=(), evaluate=score, record_figures=('score',))
  with mock.patch.dict(PROTOCOLS, score=protocol):
    options = EvalOptions(protocol='score', videos=str(videos), out=str(tmp_path / 'out'))
    assert jobs.evaluate(clips, None, options) == 0
  record = json.loads(capsys.readouterr().out)
  assert record['score'] == pytest.approx(make_clip(1).mean() / 127.5 - 1, abs=1e-5) and 'run' not in record
