from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from helpers.batches import assert_equal, build, configure, leaves, read_back, take
from helpers.clip_files import prepare_tfds
from helpers.messages import raises
from PIL import Image

from vdm_jax import data
from vdm_jax.data import mixture
from vdm_jax.data.mixture import part_at
from vdm_jax.data.sources import catalog

WEIGHTS = [(1,), (1, 1), (3, 7), (1, 2, 5), (0, 1), (1, 1, 1, 97), (7001, 2999)]


@pytest.mark.parametrize('weights', WEIGHTS)
def test_every_section_of_the_stream_has_the_right_shares(weights):
  length, taken = sum(weights), np.zeros(len(weights), int)
  counts = [taken.copy()]
  for position in range(min(5 * length, 15_000)):
    which, before = part_at(position, weights)
    assert before == taken[which], 'consecutive clips of the part'
    taken[which] += 1
    counts.append(taken.copy())
  counts = np.array(counts)
  assert (counts[::length] * length == np.arange(len(counts))[::length, None] * weights).all()
  excess = counts - np.arange(len(counts))[:, None] * np.array(weights) / length
  assert np.ptp(excess, axis=0).max() <= 2 * max(1, len(weights) - 1)
  far = 10**12 * length
  assert part_at(far, weights)[1] == 10**12 * weights[part_at(far, weights)[0]]


@pytest.mark.parametrize(('weights', 'hosts'), [((1, 1), 2), ((1, 1), 4), ((1, 3), 4), ((1, 2, 5), 8)])
def test_every_host_sees_every_part(weights, hosts):
  which = np.array([part_at(position, weights)[0] for position in range(400 * hosts)]).reshape(-1, hosts)
  for part, weight in enumerate(weights):
    np.testing.assert_allclose((which == part).mean(0), weight / sum(weights), atol=0.03)


def gray(root, levels, *, frames=4, captions=None, size=4, folder=lambda level: ''):
  """Write a folder of clips, each of one gray level, which is its name and its caption."""
  for level in levels:
    place = root / folder(level)
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / f'{level:03}.npy', np.full((frames, size, size, 1), level, np.uint8))
    (place / f'{level:03}.txt').write_text(f'{captions or root.name} {level}')
  return root


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  root = tmp_path_factory.mktemp('mixed')
  for i in range(7):
    (root / 'photos').mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 6, 3), 200 + i, np.uint8)).save(root / 'photos' / f'{i}.png')
    (root / 'photos' / f'{i}.txt').write_text(f'photo {200 + i}')
  return {'few': gray(root / 'few', range(5)), 'many': gray(root / 'many', range(50, 61)), 'photos': root / 'photos'}


def mixed(places, weights=('1', '3'), **changes):
  specs = [f'folder:{places[name]}={weight}' for name, weight in zip(('few', 'many'), weights, strict=True)]
  return configure(
    **{
      'name': 'mixture',
      'mixture': specs,
      'frame_rate': 8.0,
      'train_on_all': True,
      'labels': False,
      'num_frames': 2,
      'height': 4,
      'width': 4,
      'batch_size': 4,
      'num_images': 1,
    }
    | changes
  )


def shown(batch):
  """Return the gray level of every frame, int [b t+n-1]."""
  return np.rint((batch.x.mean(axis=(2, 3, 4)) + 1) * 127.5).astype(int)


@pytest.mark.parametrize(('weights', 'share'), [(('1', '3'), 0.25), (('0.3', '0.3'), 0.5), (('2/3', '1/3'), 2 / 3)])
def test_each_data_set_has_its_share_and_its_own_epochs(places, weights, share):
  config = mixed(places, weights, batch_size=12)
  levels = np.concatenate([shown(batch) for batch in take(build(config), 10)])
  videos, images = levels[:, 0], levels[:, 2]
  assert (levels[:, 1] == videos).all()
  assert ((videos < 50) == (images < 50)).all(), 'an appended image comes from the data set of its video'
  assert (videos != images).all()
  assert (videos < 50).mean() == pytest.approx(share, abs=1e-9)
  for clips in (range(5), range(50, 61)):
    stream = videos[np.isin(videos, clips)]
    epochs = stream[: len(stream) // len(clips) * len(clips)].reshape(-1, len(clips))
    assert len(epochs) > 1
    assert (np.sort(epochs) == np.array(clips)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1
  other = np.concatenate([shown(batch) for batch in take(build(config, seed=1), 10)])[:, 0]
  assert (other != videos).mean() > 0.5


@pytest.mark.parametrize('changes', [{}, {'image_rate': 0.25, 'frame_skip_max': 3, 'images': True, 'num_images': 2}])
def test_a_mixed_stream_is_the_same_on_all_hosts_and_after_a_resume(places, changes):
  images = (f'pictures:{places["photos"]}', f'folder:{places["few"]}=0.5') if changes else ()
  config = mixed(places, **changes | {'images': images})
  whole = take(build(config), 8)
  stream = [np.concatenate(parts) for parts in zip(*map(leaves, whole), strict=True)]
  for start, hosts, batch_size in [(0, 2, 4), (3, 1, 4), (5, 4, 4), (1, 3, 12), (7, 1, 2)]:
    for index in range(hosts):
      rows = range(batch_size)[index::hosts]
      other = mixed(places, **changes | {'images': images, 'batch_size': batch_size})
      batch = next(build(other, start=start, rows=rows))
      for leaf, expected in zip(leaves(batch), stream, strict=True):
        np.testing.assert_array_equal(leaf, expected[start * batch_size + np.array(rows)])


def test_the_held_out_clips_are_those_of_each_data_set(places):
  config = mixed(places, train_on_all=False)
  held = {
    int(name[:3])
    for part in ('few', 'many')
    for name in data.StoredClips(data.Folder(places[part]), 'test', num_frames=1).names
  }
  train, test = (
    {int(level) for batch in take(build(config, split=split), 24) for level in shown(batch)[:, 0]}
    for split in ('train', 'test')
  )
  assert test == held
  assert train == {*range(5), *range(50, 61)} - held


@pytest.mark.parametrize('rate', [0.25, 0.5, 1.0])
def test_images_as_videos_and_appended_images_come_from_data_images(places, rate):
  config = mixed(places, image_rate=rate, num_images=1, images=(f'pictures:{places["photos"]}',))
  stream = take(build(config), 28)
  levels, intervals = np.concatenate([*map(shown, stream)]), np.concatenate([b.cond.frame_interval for b in stream])
  resolutions = np.concatenate([batch.cond.resolution for batch in stream])
  is_image = levels[:, 0] >= 200
  assert is_image.mean() == rate
  np.testing.assert_array_equal(intervals, np.where(is_image, np.float32(0), np.float32(1 / 8)))
  np.testing.assert_array_equal(resolutions, np.where(is_image[:, None], (8, 6), (4, 4)))
  photos = levels[is_image, 0][: 7 * (is_image.sum() // 7)].reshape(-1, 7)
  assert (np.sort(photos) == np.arange(200, 207)).all(), 'each once in every epoch'
  assert set(levels[:, 2]) == {*range(200, 207)}
  captions = [read_back(tokens) for batch in stream for tokens in batch.cond.text[:, 0]]
  where = {True: 'photo', False: 'few'}
  for caption, level in zip(captions, levels[:, 0], strict=True):
    assert caption == f'{"many" if 50 <= level < 100 else where[level >= 200]} {level}'
  assert [read_back(t) for b in stream for t in b.cond.text[:, 1]] == [f'photo {level}' for level in levels[:, 2]]


def test_images_have_the_weights_of_their_data_sets(places):
  images = (f'pictures:{places["photos"]}=3', f'folder:{places["many"]}=1')
  config = configure(num_frames=1, num_images=8, images=images, labels=False, frame_rate=8.0, train_on_all=False)
  levels = np.concatenate([shown(batch)[:, 1:] for batch in take(build(config), 12)]).ravel()
  assert ((levels >= 200).mean() - 0.75) ** 2 < 9 * 0.75 * 0.25 / len(levels)  # three standard deviations


def test_words_and_captions_of_all_data_sets(places):
  config = mixed(places, images=(f'pictures:{places["photos"]}',))
  levels = {'few': range(5), 'many': range(50, 61), 'photo': range(200, 207)}
  assert set(data.captions(config)) == {f'{name} {level}' for name, one in levels.items() for level in one}
  assert set(data.vocabulary(config)) == {*levels, *(str(level) for one in levels.values() for level in one)}


def test_examples_come_from_all_data_sets(places):
  config = mixed(places)
  clips = data.examples(config, 'train', seed=0, count=8)
  assert len({clip.caption for clip in clips}) == 8
  assert sum(clip.caption.startswith('few') for clip in clips) == 2
  assert len({clip.caption for clip in data.examples(config, 'train', seed=0, count=99)}) == 16


def test_bad_clips_are_listed_and_counted_for_each_data_set(tmp_path):
  few, many = gray(tmp_path / 'few', range(10)), gray(tmp_path / 'many', range(50, 90))
  for path in (few / '003.npy', many / '060.npy', many / '070.npy'):
    path.write_bytes(b'no array')
  config = mixed({'few': few, 'many': many}, max_bad_share=0.1)
  batches = take(build(config, quarantine=tmp_path), 20)
  lines = [json.loads(line) for line in (tmp_path / 'quarantine.jsonl').read_text().splitlines()]
  listed = {(line['path'], line['clip']) for line in lines}
  assert listed == {(str(few), '003.npy'), (str(many), '060.npy'), (str(many), '070.npy')}
  assert len(lines) == 3
  levels = np.concatenate([shown(batch)[:, 0] for batch in batches])
  assert (levels < 50).mean() == 0.25, 'a substitute comes from the same data set'
  assert not {3, 60, 70} & {*levels}
  (few / '004.npy').write_bytes(b'')
  with raises(data.TooManyBadClips, f"data.path='{few}'", '2 of 10 clips'):
    build(config)


def test_labels_must_mean_the_same(tmp_path):
  one = gray(tmp_path / 'one', range(6), folder=lambda level: 'ab'[level % 2])
  same = gray(tmp_path / 'same', range(50, 56), folder=lambda level: 'ab'[level % 2])
  other = gray(tmp_path / 'other', range(60, 66), folder=lambda level: 'ac'[level % 2])
  none = gray(tmp_path / 'none', range(70, 76))
  tfds = prepare_tfds(tmp_path, 'ucf101', {'train': [np.zeros((3, 4, 4, 3), np.uint8)] * 6})
  config = mixed({'few': one, 'many': same}, labels=True)
  assert data.num_classes(config) == 2
  for batch in take(build(config), 4):
    np.testing.assert_array_equal(batch.cond.label[:, 0], shown(batch)[:, 0] % 2)
  assert data.num_classes(mixed({'few': one, 'many': none})) == 0
  for bad, described in [
    (f'folder:{other}', f'{other} has 2 classes (a, c, ...)'),
    (f'folder:{none}', f'{none} has no classes'),
    (f'tfds:{tfds}', f'{tfds} has 3 classes (Archery, Bowling, Diving, ...)'),
  ]:
    config = mixed({'few': one, 'many': same}, labels=True, mixture=(f'folder:{one}=1', f'{bad}=1'))
    for call in (lambda config=config: data.num_classes(config), lambda config=config: build(config)):
      with raises(ValueError, 'data.labels=True', f'{one} has 2 classes (a, b, ...)', described):
        call()


def test_every_data_set_can_have_its_own_frame_rate(places):
  specs = (f'folder:{places["few"]}@20=1', f'folder:{places["many"]}=1')
  for batch in take(build(mixed(places, mixture=specs)), 3):
    np.testing.assert_array_equal(
      batch.cond.frame_interval, np.where(shown(batch)[:, 0] < 50, np.float32(1 / 20), np.float32(1 / 8))
    )


STORED = 'folder, array, records, tfds, pictures'


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ({'mixture': ()}, ("data.name='mixture'", 'data.mixture', mixture.FORM)),
    ({'path': 'a'}, ("data.path='a'", "data.name='mixture'")),
    ({'name': 'digits'}, ('data.mixture', "data.name='digits'")),
    ({'mixture': ('clips',)}, ("data.mixture: 'clips'", mixture.FORM)),
    ({'mixture': ('digits:x=1',)}, ("data.mixture: 'digits:x=1'", "'digits'", STORED)),
    ({'mixture': ('mixture:a=1',)}, ("data.mixture: 'mixture:a=1'", "'mixture'", STORED)),
    *(
      ({'mixture': (f'folder:a={weight}',)}, (f"data.mixture: 'folder:a={weight}'", f"'{weight}'", 'weight'))
      for weight in ('0', '-1', 'nan', 'inf', 'much', '')
    ),
    ({'mixture': ('array:a@b=1',)}, ("data.mixture: 'array:a@b=1'", "'b'", 'frame rate')),
    ({'mixture': ('folder:a=1', 'folder:a=2')}, ('data.mixture: folder:a ', 'twice')),
    ({'images': ('pictures:a',), 'num_images': 0}, ('data.images', 'data.num_images=0', 'data.image_rate=0')),
    ({'images': ('photo:a',)}, ("data.images: 'photo:a'", "'photo'", STORED)),
  ],
)
def test_invalid_settings_raise_before_the_first_batch(places, changes, named):
  with raises(ValueError, *named):
    build(mixed(places, **changes))


def test_paths_may_contain_the_separators():
  parse = mixture.parse
  ((name, path, rate, weight),) = parse('', ['folder:/a=b/c@d/e:f@12.5=3'], ['folder'])
  assert (name, path, rate, weight) == ('folder', '/a=b/c@d/e:f', 12.5, 3)
  assert parse('', ['folder:/a=b/c@d/e:f'], ['folder'])[0][1:] == ('/a=b/c@d/e:f', None, 1)


def test_a_folder_of_images(tmp_path):
  (tmp_path / 'deep').mkdir()
  picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
  Image.fromarray(picture).save(tmp_path / 'deep' / 'cat.png')
  Image.fromarray(picture[..., 0]).save(tmp_path / '1.bmp')
  (tmp_path / 'deep' / 'cat.txt').write_text('a  cat')
  (tmp_path / '.hidden.png').write_text('')
  exif = Image.Exif()
  exif[0x0112] = 6  # rotated by 90 degrees, clockwise
  Image.fromarray(picture).save(tmp_path / 'turned.png', exif=exif)
  source = data.StoredClips(data.Pictures(tmp_path), 'train', num_frames=1, train_on_all=True)
  clips = [source.read(i, np.random.default_rng(0), 1) for i in range(3)]
  assert source.names == ['1.bmp', 'deep/cat.png', 'turned.png']
  for clip, expected in zip(
    clips, (picture[..., :1].repeat(3, -1), picture, picture[::-1].transpose(1, 0, 2)), strict=True
  ):
    np.testing.assert_array_equal(clip.video, expected[None])
    assert clip.resolution == expected.shape[:2]
  assert [source.check(i).resolution for i in range(3)] == [(4, 6), (4, 6), (6, 4)]
  assert [clip.caption for clip in clips] == ['', 'a cat', '']
  assert catalog.open_stored(f'pictures:{tmp_path}', 'train', num_frames=1)[0] == 'pictures'
  with raises(ValueError, f'data.path={str(tmp_path)!r}', 'data.num_frames=2', 'data.images'):
    data.StoredClips(data.Pictures(tmp_path), 'train', num_frames=2)
  (empty := tmp_path / 'empty').mkdir()
  with raises(ValueError, f'data.path={str(empty)!r}'):
    data.StoredClips(data.Pictures(empty), 'train', num_frames=1)


def test_an_image_model_trains_on_a_folder_of_images(places):
  config = configure(
    name='pictures',
    path=str(places['photos']),
    num_frames=1,
    num_images=0,
    labels=False,
    train_on_all=True,
    batch_size=7,
    height=8,
    width=6,
  )
  for batch in itertools.islice(build(config), 2):
    assert sorted(shown(batch)[:, 0]) == [*range(200, 207)]
    assert (batch.cond.frame_interval == 0).all()


@pytest.mark.slow
def test_workers_change_nothing_of_a_mixture(places):
  config = mixed(places, image_rate=0.25, images=(f'pictures:{places["photos"]}',))
  streams = [take(build(configure(**config.to_dict() | {'num_workers': workers})), 5) for workers in (0, 2)]
  for left, right in zip(*streams, strict=True):
    assert_equal(left, right)
