"""Tar shards in the layout of WebDataset: `data.name='webdataset'`."""

from __future__ import annotations

import os
import pathlib

from vdm_jax.data.sources import metadata
from vdm_jax.data.sources.archives import members, tar_index
from vdm_jax.data.sources.contract import clip_path, held_out_by_hash
from vdm_jax.data.sources.folder import VIDEOS
from vdm_jax.data.sources.walking import check_inside
from vdm_jax.video.opening import MAX_BYTES

LAYOUT = (
  'A WebDataset is a folder of uncompressed .tar files, each with the files of its clips one after another: 0001.mp4, '
  '0001.txt, 0002.mp4, 0002.txt.'
)
_SHARD = '.tar'


class WebDataset(members.Archive):
  """The clips in the .tar files of a folder and its subfolders, or in one .tar file, in the order of their names.

  The files KEY.mp4 (or another video, or .npy of uint8 `[t h w c]`, or the numbered images KEY.0001.jpg, ...) and
  KEY.txt make a clip and its caption. KEY.json may have the caption as text or caption, and a label; KEY.cls is a
  label. The clip is named 'SHARD.tar/KEY'. If the shards are in folders `train` and `test` (or val, valid, validation,
  validate), these are the splits.

  Raises FileNotFoundError if there are no shards, and ValueError if one is damaged, compressed, or has links, members
  outside, or two members of one name.
  """

  follows_links = True

  def __init__(self, path: str | os.PathLike, *, follow_links: bool = False):
    super().__init__()
    self.path = os.fspath(path)
    root = pathlib.Path(path)
    if not self.path or not root.exists():
      raise FileNotFoundError(f'data.path={self.path!r} is not a folder or a .tar file; check the path. {LAYOUT}')
    self._root = (root if root.is_dir() else root.parent).resolve()
    shards = _shards(self._root) if root.is_dir() else [root.resolve()]
    if not shards:
      raise FileNotFoundError(f'data.path={self.path!r} has no {_SHARD} files. {LAYOUT}')
    found = []
    for shard in shards:
      check_inside(shard, None if follow_links else self._root)
      name = shard.relative_to(self._root).as_posix()
      found += [(f'{name}/{sample.key}', shard, sample) for sample in tar_index.index(shard)]
    if not found:
      raise ValueError(f'data.path={self.path!r}: the {_SHARD} files are empty. {LAYOUT}')
    self._samples = sorted(found, key=lambda entry: entry[0])
    self.names = [name for name, _, _ in self._samples]
    usable = [clip for clip, (_, _, sample) in enumerate(self._samples) if not sample.problem]
    labels = [self._samples[clip][2].label for clip in usable]
    numbers, self.num_classes = metadata.class_numbers(labels, self.path)
    self._labels = dict(zip(usable, numbers, strict=True))
    self.class_names = metadata.class_names(labels)
    self.without_frame_rate = next((name for name, _, sample in self._samples if _is_untimed(sample)), None)

  @classmethod
  def recognizes(cls, path: pathlib.Path) -> bool:
    return members.holds_only(path, (_SHARD,))

  def caption(self, clip: int) -> str:
    return self._samples[clip][2].caption

  def label(self, clip: int) -> int | None:
    return self._labels.get(clip)

  def held_out(self) -> set[str]:
    split = members.split_of_folders(self.names)
    return held_out_by_hash(self.names) if split is None else split

  def _where(self, clip: int) -> str:
    name, shard, _ = self._samples[clip]
    return clip_path(self, clip) if pathlib.Path(self.path).is_dir() else f'{shard}/{name.partition("/")[2]}'

  def _content(self, clip: int) -> dict[str, bytes]:
    _, shard, sample = self._samples[clip]
    if sample.problem:
      raise ValueError(f'{self._where(clip)} {sample.problem}.')
    if (size := sum(count for _, count in sample.files.values())) > MAX_BYTES:
      raise ValueError(f'{self._where(clip)} has {size / 1e9:.1f} GB, above the limit of {MAX_BYTES / 1e9:.1f} GB.')
    with open(shard, 'rb') as stream:
      files = {}
      for name, (offset, count) in sample.files.items():
        stream.seek(offset)
        files[name] = stream.read(count)
    return files


def _shards(root: pathlib.Path) -> list[pathlib.Path]:
  found = [
    file for file in root.rglob(f'*{_SHARD}') if not any(p.startswith('.') for p in file.relative_to(root).parts)
  ]
  return sorted(found)


def _is_untimed(sample: tar_index.Sample) -> bool:
  return bool(sample.files) and not any(name in VIDEOS for name in sample.files)
