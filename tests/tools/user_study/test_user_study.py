"""A study from two folders to a table, with simulated voters who see only the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.html_pages import KNOWN, Page

from vdm_jax.tools.user_study import __main__ as user_study
from vdm_jax.tools.user_study import ballots
from vdm_jax.tools.user_study import study as studies
from vdm_jax.tools.user_study.ballots import QUESTIONS

PROMPTS = ['a 3 moving left', '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', 'a 3 moving left']
FORM = {'noscript', 'form', 'label', 'input', 'progress'}


def fill(folder, prompts, content=b'ours', kind='.mp4'):
  folder.mkdir(parents=True)
  for number, prompt in enumerate(prompts):
    (folder / f'{number}{kind}').write_bytes(content + b' %d' % number)
    (folder / f'{number}.txt').write_text(prompt)
  return folder


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  """A study of four pairs, of which two have the same prompt."""
  folder = tmp_path_factory.mktemp('study')
  ours, theirs = fill(folder / 'ours', PROMPTS), fill(folder / 'theirs', PROMPTS[::-1], b'theirs')
  assert user_study.main(['make', str(ours), str(theirs), f'--out={folder / "made"}', '--seed=7']) == 0
  return folder / 'made'


def shown(study):
  return Page(study / 'page/index.html').json('study')


def vote(study, folder, prefers, voters=range(1, 6)):
  """Files of answers by voters who see only the page: `prefers` gets (left, right) as bytes and returns 0 or 1."""
  content, files = shown(study), []
  for voter in voters:
    answers = []
    for number, left in content['ballots'][voter - 1]:
      right = 'ab'.replace(left, '')
      both = [(study / 'page' / content['pairs'][number][letter]).read_bytes() for letter in (left, right)]
      letter = (left, right)[prefers(*both)]
      answers += [[number, question, letter] for question in content['questions']]
    files.append(folder / f'{voter}.json')
    head = {'format': content['format'], 'study': content['study'], 'voter': voter}
    files[-1].write_text(json.dumps(head | {'answers': answers}))
  return files


def test_voters_who_always_prefer_a_method_give_it_all_votes(study, tmp_path, capsys):
  files = vote(study, tmp_path, lambda left, right: int(right.startswith(b'ours')))
  out = tmp_path / 'record.json'
  assert user_study.main(['score', str(study), *map(str, files), f'--out={out}', '--published=pyoco']) == 0
  said = capsys.readouterr()
  assert said.out.splitlines()[-1] == '| Snap Video over pyoco (Table 10) | 63.3 | 64.9 | 57.1 | 63.9 |'
  assert said.err == ''
  assert said.out.splitlines()[2] == '| share of votes | 100.0 | 100.0 | 100.0 | 100.0 |'
  record = json.loads(out.read_text())
  assert record['names'] == ['ours', 'theirs'] and record['pairs'] == 4
  assert {figure['votes'] for figure in record['questions'].values()} == {20}
  files = vote(study, tmp_path, lambda left, right: int(left.startswith(b'ours')))
  record, missing = studies.score(study, files)
  assert missing == 0 and all(figure['share'] == 0 for figure in record['questions'].values())


def test_voters_who_always_prefer_the_left_prefer_no_method(study, tmp_path):
  record, _ = studies.score(study, vote(study, tmp_path, lambda left, right: 0))
  assert {figure['share'] for figure in record['questions'].values()} == {50.0}


def test_missing_votes_are_counted(study, tmp_path, capsys):
  (file,) = vote(study, tmp_path, lambda left, right: 0, voters=[4])
  assert user_study.main(['score', str(study), str(file)]) == 0
  assert capsys.readouterr().err == f'warning: {4 * 4 * 4} votes are missing.\n'


def test_each_pair_has_one_prompt_and_both_methods(study):
  content = shown(study)
  assert sorted(pair['prompt'] for pair in content['pairs']) == sorted(PROMPTS)
  key, used = json.loads((study / 'key.json').read_text()), []
  for pair, first, sources in zip(content['pairs'], key['a'], key['videos'], strict=True):
    for letter, method in zip('ab', (first, 1 - first), strict=True):
      file = (study / 'page' / pair[letter]).read_bytes()
      assert file == Path(sources[method]).read_bytes()
      assert file.startswith((b'ours', b'theirs')[method])
      assert Path(sources[method]).with_suffix('.txt').read_text() == pair['prompt']
      used.append(file)
  assert len(set(used)) == 8


def test_the_page_does_not_reveal_methods_and_runs_only_its_own_script(study):
  page = Page(study / 'page/index.html')
  page.check_inert(KNOWN | FORM)
  assert page.files() == set(), 'the script inserts the videos from the list'
  assert not re.search('ours|theirs', (study / 'page/index.html').read_text())
  assert page.json('study')['questions'] == QUESTIONS and len(page.json('study')['ballots']) == ballots.VOTES
  names = {path.name for path in (study / 'page/videos').iterdir()}
  assert names == {f'{number:04d}{letter}.mp4' for number in range(4) for letter in 'ab'}


def test_lists_of_sampling_are_read_and_gifs_are_used_without_mp4(tmp_path):
  for folder in ('ours', 'theirs'):
    fill(tmp_path / folder, [])
    (tmp_path / folder / '0.gif').write_bytes(b'GIF')
  (tmp_path / 'ours/videos.jsonl').write_text('{"file_name": "0.gif", "text": "a  b"}\n')
  (tmp_path / 'theirs/0.txt').write_text('a b')
  made = studies.make([str(tmp_path / 'ours'), str(tmp_path / 'theirs')], str(tmp_path / 'out'), names=('x', 'y'))
  assert made == 1 and {path.name for path in (tmp_path / 'out/page/videos').iterdir()} == {'0000a.gif', '0000b.gif'}


@pytest.fixture
def both(tmp_path):
  return fill(tmp_path / 'ours', ['a', 'b']), fill(tmp_path / 'theirs', ['a', 'b'])


def error_of(capsys, *arguments):
  assert user_study.main([*map(str, arguments)]) == 2
  return capsys.readouterr().err.strip()


def test_bad_folders_are_refused_before_anything_is_written(both, tmp_path, capsys):
  ours, theirs = both
  out = f'--out={tmp_path / "out"}'

  def refused(path, reason):
    error = error_of(capsys, 'make', ours, theirs, out)
    assert error.startswith(f'error: {path} ') and re.search(reason, error)
    assert not (tmp_path / 'out').exists()

  (theirs / '1.txt').write_text('c')
  refused(ours, f"1.mp4 .* 'b', .* {theirs}")
  (theirs / '1.txt').write_text('b')
  fill(tmp_path / 'more', ['b'])
  shutil.copy(tmp_path / 'more/0.mp4', theirs / '2.mp4')
  refused(theirs.resolve() / '2.mp4', 'has no prompt: write it to 2.txt')
  (theirs / '2.txt').write_text('b')
  refused(theirs, f"2.mp4 .* 'b', .* {ours}")
  (theirs / '2.mp4').write_bytes(b'')
  refused(theirs.resolve() / '2.mp4', 'is empty')
  (theirs / 'videos.jsonl').write_text('{"file_name": "9.mp4", "text": "b"}')
  refused(theirs.resolve() / 'videos.jsonl', 'lists 9.mp4, which does not exist')
  (theirs / 'videos.jsonl').write_text('{"file_name": "2.txt", "text": "b"}')
  refused(theirs.resolve() / '2.txt', 'is not a video that browsers play: .*.mp4, .webm, .gif')
  shutil.rmtree(theirs)
  refused(theirs, 'is not a folder')
  theirs.mkdir()
  refused(theirs, r'has no videos \(.mp4, .webm, .gif\)')


def test_other_invalid_arguments_of_make_are_refused(both, tmp_path, capsys):
  out = tmp_path / 'out'
  assert '--names=x x ' in error_of(capsys, 'make', *both, f'--out={out}', '--names', 'x', 'x')
  assert '2 pairs and 0 voters' in error_of(capsys, 'make', *both, f'--out={out}', '--votes=0')
  out.mkdir()
  (out / 'mine').touch()
  assert f'--out={out} is not an empty folder' in error_of(capsys, 'make', *both, f'--out={out}')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('', 'is not a file of answers'),
    ('[' * 100_000, 'is not a file of answers'),
    ({'format': 'other'}, 'is not a file of answers'),
    ({'study': 'other'}, 'has answers to another study'),
    ({'voter': 6}, 'has no valid voter from 1 to 5'),
    ({'voter': True}, 'has no valid voter from 1 to 5'),
    ({'answers': {}}, 'has no valid voter from 1 to 5'),
    ({'answers': [[4, 'motion quality', 'a']]}, "has an invalid answer, [4, 'motion quality', 'a']:"),
    ({'answers': [[0, 'taste', 'a']]}, "has an invalid answer, [0, 'taste', 'a']:"),
    ({'answers': [[0, ['x'], 'a']]}, "has an invalid answer, [0, ['x'], 'a']:"),
    ({'answers': [[0, 'motion quality', 'c']]}, "has an invalid answer, [0, 'motion quality', 'c']:"),
    ({'answers': ['x' * 100]}, f'has an invalid answer, {"x" * 80}:'),
  ],
)
def test_invalid_answers_are_refused(study, tmp_path, capsys, change, message):
  (file,) = vote(study, tmp_path, lambda left, right: 0, voters=[1])
  file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
  assert error_of(capsys, 'score', study, file).startswith(f'error: {file} {message}')


def test_answers_to_other_videos_are_refused(study, tmp_path, capsys):
  """Their number, prompts and seed are the same, and so are the names of all files."""
  ours, theirs = fill(tmp_path / 'ours', PROMPTS, b'mine'), fill(tmp_path / 'theirs', PROMPTS[::-1], b'theirs')
  assert user_study.main(['make', str(ours), str(theirs), f'--out={tmp_path / "made"}', '--seed=7']) == 0
  capsys.readouterr()
  (file,) = vote(tmp_path / 'made', tmp_path, lambda left, right: 0, voters=[1])
  assert 'has answers to another study' in error_of(capsys, 'score', study, file)


def test_a_voter_counts_once(study, tmp_path, capsys):
  (file,) = vote(study, tmp_path, lambda left, right: 0, voters=[2])
  assert 'voter 2 answered the same question' in error_of(capsys, 'score', study, file, file)
  assert f'{tmp_path}/key.json does not exist' in error_of(capsys, 'score', tmp_path, file)
  (tmp_path / 'key.json').write_text('{}')
  assert f'{tmp_path}/key.json is not the key of a study' in error_of(capsys, 'score', tmp_path, file)
