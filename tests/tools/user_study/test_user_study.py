"""A study from two folders to a table, with voters that are simulated from what the page itself shows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.html_pages import KNOWN, Page

from vdm_jax.tools.user_study import __main__ as user_study
from vdm_jax.tools.user_study import ballots
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
  """Files of answers by voters who look at the page alone: `prefers` sees (left, right) as bytes, and picks one."""
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


def test_who_always_prefers_a_method_gives_it_all_votes(study, tmp_path, capsys):
  files = vote(study, tmp_path, lambda left, right: int(right.startswith(b'ours')))
  out = tmp_path / 'record.json'
  assert user_study.main(['score', str(study), *map(str, files), f'--out={out}']) == 0
  said = capsys.readouterr()
  assert said.err == ''
  assert said.out.splitlines()[2] == '| of votes | 100.0 | 100.0 | 100.0 | 100.0 |'
  record = json.loads(out.read_text())
  assert record['names'] == ['ours', 'theirs'] and record['pairs'] == 4
  assert {figure['votes'] for figure in record['questions'].values()} == {20}
  files = vote(study, tmp_path, lambda left, right: int(left.startswith(b'ours')))
  record, missing = user_study.score(study, files)
  assert missing == 0 and all(figure['share'] == 0 for figure in record['questions'].values())


def test_who_always_prefers_the_left_prefers_no_method(study, tmp_path):
  record, _ = user_study.score(study, vote(study, tmp_path, lambda left, right: 0))
  assert {figure['share'] for figure in record['questions'].values()} == {50.0}


def test_some_answers_are_enough_and_the_rest_is_counted(study, tmp_path, capsys):
  (file,) = vote(study, tmp_path, lambda left, right: 0, voters=[4])
  assert user_study.main(['score', str(study), str(file)]) == 0
  assert capsys.readouterr().err == f'warning: {4 * 4 * 4} votes are still to come.\n'


def test_each_pair_is_of_one_prompt_and_of_both_methods(study):
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


def test_the_page_tells_nothing_and_runs_nothing_but_itself(study):
  page = Page(study / 'page/index.html')
  page.check_inert(KNOWN | FORM)
  assert page.files() == set(), 'videos are put in by the script, from the list'
  assert not re.search('ours|theirs', (study / 'page/index.html').read_text())
  assert page.json('study')['questions'] == QUESTIONS and len(page.json('study')['ballots']) == ballots.VOTES
  names = {path.name for path in (study / 'page/videos').iterdir()}
  assert names == {f'{number:04d}{letter}.mp4' for number in range(4) for letter in 'ab'}


def test_what_sampling_lists_is_read_and_gifs_stand_in(tmp_path):
  for folder in ('ours', 'theirs'):
    fill(tmp_path / folder, [])
    (tmp_path / folder / '0.gif').write_bytes(b'GIF')
  (tmp_path / 'ours/videos.jsonl').write_text('{"file_name": "0.gif", "text": "a  b"}\n')
  (tmp_path / 'theirs/0.txt').write_text('a b')
  made = user_study.make([str(tmp_path / 'ours'), str(tmp_path / 'theirs')], str(tmp_path / 'out'), names=('x', 'y'))
  assert made == 1 and {path.name for path in (tmp_path / 'out/page/videos').iterdir()} == {'0000a.gif', '0000b.gif'}


@pytest.fixture
def both(tmp_path):
  return fill(tmp_path / 'ours', ['a', 'b']), fill(tmp_path / 'theirs', ['a', 'b'])


def says(capsys, *arguments):
  assert user_study.main([*map(str, arguments)]) == 2
  return capsys.readouterr().err.strip()


def test_bad_folders_are_refused_before_anything_is_written(both, tmp_path, capsys):
  ours, theirs = both
  out = f'--out={tmp_path / "out"}'

  def refused(message):
    assert says(capsys, 'make', ours, theirs, out) == f'error: {message}'
    assert not (tmp_path / 'out').exists()

  (theirs / '1.txt').write_text('c')
  others = 'which {} has not as often: both methods need one video for each prompt of the other.'
  refused(f"{ours} has 1.mp4 of the prompt 'b', {others.format(theirs)}")
  (theirs / '1.txt').write_text('b')
  fill(tmp_path / 'more', ['b'])
  shutil.copy(tmp_path / 'more/0.mp4', theirs / '2.mp4')
  refused(f'{theirs.resolve() / "2.mp4"} has no prompt: write it to 2.txt beside it.')
  (theirs / '2.txt').write_text('b')
  refused(f"{theirs} has 2.mp4 of the prompt 'b', {others.format(ours)}")
  (theirs / '2.mp4').write_bytes(b'')
  refused(f'{theirs.resolve() / "2.mp4"} is empty: make the video again.')
  (theirs / 'videos.jsonl').write_text('{"file_name": "9.mp4", "text": "b"}')
  refused(f'{theirs.resolve() / "videos.jsonl"} lists 9.mp4, which is not there: put the video back.')
  (theirs / 'videos.jsonl').write_text('{"file_name": "2.txt", "text": "b"}')
  refused(f'{theirs.resolve() / "2.txt"} is no video that browsers play: convert it to one of .mp4, .webm, .gif.')
  shutil.rmtree(theirs)
  refused(f'{theirs} is not a folder: name the folder of one method, with a video per prompt.')
  theirs.mkdir()
  refused(f'{theirs} has no videos (.mp4, .webm, .gif): name the folder of one method.')


def test_other_refusals_of_make(both, tmp_path, capsys):
  out = tmp_path / 'out'
  assert says(capsys, 'make', *both, f'--out={out}', '--names', 'x', 'x') == (
    'error: --names=x x must be two different names: give one for each method.'
  )
  assert says(capsys, 'make', *both, f'--out={out}', '--votes=0') == (
    'error: 2 pairs and 0 voters: there must be one or more of each.'
  )
  out.mkdir()
  (out / 'mine').touch()
  assert says(capsys, 'make', *both, f'--out={out}') == (
    f'error: --out={out} exists and is not an empty folder: choose another one.'
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('', 'FILE holds no answers: give the files that the page of the study saved.'),
    ('[' * 100_000, 'FILE holds no answers: give the files that the page of the study saved.'),
    ({'format': 'other'}, 'FILE holds no answers: give the files that the page of the study saved.'),
    ({'study': 'other'}, 'FILE is of another study than the key: give the answers to this one.'),
    ({'voter': 6}, 'FILE names no voter from 1 to 5: let the page save it again.'),
    ({'voter': True}, 'FILE names no voter from 1 to 5: let the page save it again.'),
    ({'answers': {}}, 'FILE names no voter from 1 to 5: let the page save it again.'),
    (
      {'answers': [[4, 'motion quality', 'a']]},
      "FILE has an answer that is none, [4, 'motion quality', 'a']: let the page save it again.",
    ),
    (
      {'answers': [[0, 'taste', 'a']]},
      "FILE has an answer that is none, [0, 'taste', 'a']: let the page save it again.",
    ),
    ({'answers': [[0, ['x'], 'a']]}, "FILE has an answer that is none, [0, ['x'], 'a']: let the page save it again."),
    (
      {'answers': [[0, 'motion quality', 'c']]},
      "FILE has an answer that is none, [0, 'motion quality', 'c']: let the page save it again.",
    ),
    ({'answers': ['x' * 100]}, f'FILE has an answer that is none, {"x" * 80}: let the page save it again.'),
  ],
)
def test_foreign_answers_are_refused(study, tmp_path, capsys, change, message):
  (file,) = vote(study, tmp_path, lambda left, right: 0, voters=[1])
  file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
  assert says(capsys, 'score', study, file) == f'error: {message}'.replace('FILE', str(file))


def test_one_voter_counts_once(study, tmp_path, capsys):
  (file,) = vote(study, tmp_path, lambda left, right: 0, voters=[2])
  assert says(capsys, 'score', study, file, file) == (
    'error: voter 2 answered the same question about the same pair in two of the files: leave one of them out, or give '
    'that voter another number.'
  )
  assert says(capsys, 'score', tmp_path, file) == f'error: {tmp_path}/key.json is not there: check the path.'
  (tmp_path / 'key.json').write_text('{}')
  assert says(capsys, 'score', tmp_path, file) == (
    f'error: {tmp_path}/key.json is not the key of a study: name the folder that `make` wrote.'
  )
