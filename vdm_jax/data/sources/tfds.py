"""Data sets that TensorFlow Datasets has prepared as ArrayRecord files, read without TensorFlow."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import Any

import numpy as np

from vdm_jax.data.sources.records import Shards, decode_picture
from vdm_jax.data.sources.stored_clips import Stored, held_out_names
from vdm_jax.video.codecs import VideoInfo
from vdm_jax.video.opening import check_bytes, check_size
from vdm_jax.video.transforms import frame_numbers

INFO = 'dataset_info.json'
FRAMES = ('video', 'image_main')  # the feature that holds the frames: of most data sets, and of BAIR's
PREPARED = 'a folder that TensorFlow Datasets has prepared, such as ucf101/ucf101_1/2.0.0'


class Tfds(Stored):
  """The clips of one split of a prepared data set, such as ucf101 and bair_robot_pushing_small.

  Its splits `test` and `validation` are the test split; one in ten clips where it has `train` alone. The frames are the
  feature `video`, or `image_main`; labels are those of the data set, and there are no captions. Clip i of a split is
  called 'train/i' with leading zeros. The frame rate is not in these files.

  Raises FileNotFoundError if there is no such folder, and ValueError if it was prepared in another format or is not
  complete.
  """

  def __init__(self, path: str | os.PathLike, split: str, **settings: Any):
    folder, given = pathlib.Path(path), os.fspath(path)
    if not (folder / INFO).is_file():
      raise FileNotFoundError(f'data.path={given!r} has no {INFO}; it must name {PREPARED}.')
    try:
      info = json.loads((folder / INFO).read_text())
      dataset, file_format = info['name'], info.get('fileFormat', 'tfrecord')
      lengths = {one['name']: [int(length) for length in one['shardLengths']] for one in info['splits']}
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'data.path={given!r}: {INFO} cannot be read ({error}); prepare the data again.') from error
    if file_format != 'array_record':
      raise ValueError(
        f'data.path={given!r} was prepared as {file_format}, which has no random access; prepare it again with '
        f"tfds.builder({dataset!r}, file_format='array_record').download_and_prepare()."
      )
    files = [file for name, shards in lengths.items() for file in _files(folder, dataset, name, len(shards))]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
      raise ValueError(f'data.path={given!r}: {(missing or ["its list of files"])[0]} is missing; prepare it again.')
    self.path, self._shards = given, Shards(files)
    names = [f'{name}/{i:06d}' for name, shards in lengths.items() for i in range(sum(shards))]
    if len(self._shards) != len(names):
      raise ValueError(
        f'data.path={given!r} holds {len(self._shards)} clips, but {INFO} says {len(names)}; prepare it again.'
      )
    first = self._features(0)
    self._frames_key = next((key for key in FRAMES if key in first), None)
    if self._frames_key is None:
      raise ValueError(
        f'data.path={given!r}: {dataset} has the features {", ".join(sorted(first))}, but none of '
        f'{", ".join(FRAMES)}, where frames are looked for.'
      )
    labels = folder / 'label.labels.txt'
    if 'label' in first and labels.is_file():
      self.class_names = tuple(labels.read_text().splitlines())
      self.num_classes = len(self.class_names)
    held_out = {name for name in names if not name.startswith('train/')} or held_out_names(names)
    super().__init__(path, split, names, held_out, without_rate=names[0], **settings)

  def _features(self, place: int) -> Any:
    """The features of a record by name: a map of protocol buffers, which are data and run nothing."""
    try:
      return _example(self._shards, place).features.feature
    except Exception as error:  # a damaged record raises almost any of them
      raise ValueError(
        f'data.path={self.path!r}: record {place} is damaged ({type(error).__name__}); prepare the data again.'
      ) from error

  def _pictures(self, place: int) -> list[bytes]:
    features = self._features(place)
    return list(features[self._frames_key].bytes_list.value) if self._frames_key in features else []

  def _info(self, place: int) -> VideoInfo:
    pictures = self._pictures(place)
    if not pictures:
      raise ValueError(f'{self._name(place)}: there are no frames in this record; prepare the data again.')
    return VideoInfo(len(pictures), 0.0, decode_picture(pictures[0], self._name(place)).shape[:2])

  def _frames(self, place: int, start: int, num_frames: int, frame_skip: float, max_bytes: int) -> np.ndarray:
    pictures, where, frames = self._pictures(place), self._name(place), []
    for number in frame_numbers(start, num_frames, frame_skip):
      frames.append(decode_picture(pictures[number], f'{where}: frame {number}'))
      check_size(where, *frames[0].shape[:2])
      check_bytes(where, num_frames, *frames[0].shape[:2], max_bytes)
      if frames[-1].shape != frames[0].shape:
        raise ValueError(f'{where}: the frames are of several sizes; prepare the data again.')
    return np.stack(frames)

  def _label(self, place: int) -> int | None:
    if self.num_classes is None:
      return None
    values = self._features(place)['label'].int64_list.value
    if len(values) != 1 or not 0 <= values[0] < self.num_classes:
      raise ValueError(f'{self._name(place)}: its label is {list(values)}; prepare the data again.')
    return int(values[0])

  def _name(self, place: int) -> str:
    return os.path.join(self.path, self._all_names[place])


@functools.lru_cache(maxsize=8)  # one clip is asked for its length, its label and its frames, by a few threads
def _example(shards: Shards, place: int) -> Any:
  from tensorflow_datasets.proto import tf_example_pb2  # imported here: it takes a second

  return tf_example_pb2.Example.FromString(shards[place])


def _files(folder: pathlib.Path, dataset: str, split: str, count: int) -> list[pathlib.Path]:
  return [folder / f'{dataset}-{split}.array_record-{i:05d}-of-{count:05d}' for i in range(count)]
