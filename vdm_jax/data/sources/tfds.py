"""Data sets that TensorFlow Datasets has prepared as ArrayRecord files, read without TensorFlow."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vdm_jax.data.sources.contract import Source, clip_path, held_out_by_hash
from vdm_jax.data.sources.records import Shards, decode_image
from vdm_jax.inputs.text_files import read_lines
from vdm_jax.video.opening import MAX_BYTES, check_bytes, check_size
from vdm_jax.video.reading import VideoInfo

INFO = 'dataset_info.json'
FRAMES = ('video', 'image_main')  # features that hold frames: in most data sets, and in BAIR
PREPARED = 'a folder that TensorFlow Datasets has prepared, such as ucf101/ucf101_1/2.0.0'


class Tfds(Source):
  """The clips of a prepared data set, such as ucf101 and bair_robot_pushing_small.

  The splits `test` and `validation` of the data set are the test split; if it only has `train`, one clip in ten is. The
  frames are the feature `video`, or `image_main`; labels are those of the data set, and there are no captions. Clip i
  of a split is named 'train/i' with leading zeros. The files contain no frame rate.

  Raises FileNotFoundError if there is no such folder, and ValueError if it was prepared in another format or is
  incomplete.
  """

  def __init__(self, path: str | os.PathLike):
    folder, self.path = pathlib.Path(path), os.fspath(path)
    if not (folder / INFO).is_file():
      raise FileNotFoundError(f'data.path={self.path!r} has no {INFO}; it must name {PREPARED}.')
    try:
      info = json.loads((folder / INFO).read_text())
      dataset, file_format = info['name'], info.get('fileFormat', 'tfrecord')
      lengths = {one['name']: [int(length) for length in one['shardLengths']] for one in info['splits']}
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'data.path={self.path!r}: {INFO} is not valid ({error}); prepare the data again.') from error
    if file_format != 'array_record':
      raise ValueError(
        f'data.path={self.path!r} was prepared as {file_format}, which has no random access; prepare it again with '
        f"tfds.builder({dataset!r}, file_format='array_record').download_and_prepare()."
      )
    files = [file for name, shards in lengths.items() for file in _files(folder, dataset, name, len(shards))]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
      raise ValueError(
        f'data.path={self.path!r}: {(missing or ["its list of files"])[0]} is missing; prepare it again.'
      )
    self._shards = Shards(files)
    self.names = [f'{name}/{i:06d}' for name, shards in lengths.items() for i in range(sum(shards))]
    if len(self._shards) != len(self.names):
      raise ValueError(
        f'data.path={self.path!r} has {len(self._shards)} clips, but {INFO} lists {len(self.names)}; prepare it again.'
      )
    first = self._features(0)
    self._frames_key = next((key for key in FRAMES if key in first), None)
    if self._frames_key is None:
      raise ValueError(
        f'data.path={self.path!r}: {dataset} has the features {", ".join(sorted(first))}, but frames are read from '
        f'{", ".join(FRAMES)}; choose another data set.'
      )
    labels = folder / 'label.labels.txt'
    if 'label' in first and labels.is_file():
      self.class_names = tuple(read_lines(labels))
      self.num_classes = len(self.class_names)
    self.without_frame_rate = self.names[0]

  @classmethod
  def recognizes(cls, path: pathlib.Path) -> bool:
    return (path / INFO).is_file()

  def info(self, clip: int) -> VideoInfo:
    images, where = self._images(clip), clip_path(self, clip)
    if not images:
      raise ValueError(f'{where}: this record contains no frames; prepare the data again.')
    return VideoInfo(len(images), 0.0, decode_image(images[0], where).shape[:2])

  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    images, where, frames = self._images(clip), clip_path(self, clip), []
    for number in numbers:
      frames.append(decode_image(images[number], f'{where}: frame {number}'))
      check_size(where, *frames[0].shape[:2])
      check_bytes(where, len(numbers), *frames[0].shape[:2], MAX_BYTES)
      if frames[-1].shape != frames[0].shape:
        raise ValueError(f'{where}: the frames differ in size; prepare the data again.')
    return np.stack(frames)

  def label(self, clip: int) -> int | None:
    if self.num_classes is None:
      return None
    values = self._features(clip)['label'].int64_list.value
    if len(values) != 1 or not 0 <= values[0] < self.num_classes:
      raise ValueError(f'{clip_path(self, clip)}: {list(values)} is not a valid label; prepare the data again.')
    return int(values[0])

  def held_out(self) -> set[str]:
    return {name for name in self.names if not name.startswith('train/')} or held_out_by_hash(self.names)

  def _features(self, clip: int) -> Any:
    """Return the features of a record by name: a map of protocol buffers, which are data and execute nothing."""
    try:
      return _example(self._shards, clip).features.feature
    except Exception as error:  # a damaged record raises almost any exception
      raise ValueError(
        f'data.path={self.path!r}: record {clip} is damaged ({type(error).__name__}); prepare the data again.'
      ) from error

  def _images(self, clip: int) -> list[bytes]:
    features = self._features(clip)
    return list(features[self._frames_key].bytes_list.value) if self._frames_key in features else []


@functools.lru_cache(maxsize=8)  # a few threads each read the length, the label and the frames of a clip
def _example(shards: Shards, place: int) -> Any:
  from tensorflow_datasets.proto import tf_example_pb2  # imported here: it takes a second

  return tf_example_pb2.Example.FromString(shards[place])


def _files(folder: pathlib.Path, dataset: str, split: str, count: int) -> list[pathlib.Path]:
  return [folder / f'{dataset}-{split}.array_record-{i:05d}-of-{count:05d}' for i in range(count)]
