"""Configurations of data, streams of batches and their comparison, for the tests."""

from __future__ import annotations

import itertools

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import configuration, data


def configure(**changes):
  """Return the section `data` for tests: every key, with small sizes."""
  config = ConfigDict(configuration.default().data.to_dict())
  config.update(batch_size=6, num_frames=8, height=16, width=16, channels=1, num_images=2, text='words', labels=True)
  config.update(changes)
  return config


class Letters:
  """An invertible text function: every character becomes its code."""

  def __call__(self, captions):
    tokens = np.zeros((len(captions), 40), np.int32)
    for row, caption in zip(tokens, captions, strict=True):
      row[: len(caption)] = [ord(letter) for letter in caption[:40]]
    return tokens, tokens > 0


def read_back(tokens):
  return ''.join(chr(token) for token in tokens if token)


def build(config, encode=None, **arguments):
  encode = Letters() if config.text == 'words' else encode
  return data.build(config, encode, **({'seed': 0} | arguments))


def take(batches, count):
  return list(itertools.islice(batches, count))


def leaves(batch):
  return [batch.x, *(field for field in batch.cond if field is not None)]


def assert_equal(left, right):
  assert [field is None for field in left.cond] == [field is None for field in right.cond]
  for a, b in zip(leaves(left), leaves(right), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
