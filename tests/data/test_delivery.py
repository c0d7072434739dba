from __future__ import annotations

import inspect
import multiprocessing
import os
import re
import signal
import warnings

import grain
import pytest
from helpers.batches import assert_equal, build, configure, take
from helpers.messages import raises

from vdm_jax.data import delivery

NUMBERS = grain.MapDataset.range(10**6)


@pytest.fixture
def dying(monkeypatch):
  """Iterators that fail like a dead worker, each after a number of batches from a list; then one that does not fail."""
  lives, starts = [], []

  class Mortal:
    def __init__(self, batches, num_workers):
      starts.append(int(batches[0]))
      self._batches, self._left, self._next = batches, lives.pop(0) if lives else 10**6, 0

    def __iter__(self):
      return self

    def __next__(self):
      if self._next == self._left:
        raise RuntimeError('Worker process was terminated unexpectedly with exit code -9. Search the logs.')
      self._next += 1
      return self._batches[self._next - 1]

    def close(self):
      starts.append('closed')

  monkeypatch.setattr(delivery, '_iterator', Mortal)
  monkeypatch.setattr(delivery, '_copy', lambda batch: batch)
  return lives, starts


def test_the_stream_continues_with_the_first_batch_that_was_not_delivered(dying):
  lives, starts = dying
  lives += [3, 0, 2, 1]
  with pytest.warns(UserWarning, match='data: a worker died before batch') as warned:
    assert [int(n) for n in take(delivery.deliver(NUMBERS, 7, 2), 20)] == list(range(7, 27))
  assert starts[:-1] == [7, 'closed', 10, 'closed', 10, 'closed', 12, 'closed', 13]
  assert [re.search(r'before batch (\d+)', str(one.message))[1] for one in warned] == ['10', '10', '12', '13']


def test_it_raises_if_workers_die_repeatedly(dying):
  lives, starts = dying
  lives += [2, 0, 0]
  stream = delivery.deliver(NUMBERS, 5, 1)
  with pytest.warns(UserWarning), raises(RuntimeError, 'workers died 3 times', 'batch 7', 'exit code -9'):
    take(stream, 3)
  assert starts == [5, 'closed', 7, 'closed', 7, 'closed']


def test_other_errors_are_not_caught(monkeypatch):
  def broken(batches, num_workers):
    raise RuntimeError('something else')

  monkeypatch.setattr(delivery, '_iterator', broken)
  with pytest.raises(RuntimeError, match='^something else$'):
    next(delivery.deliver(NUMBERS, 0, 2))


def test_the_message_is_that_of_grain():
  from grain._src.python.dataset.transformations import process_prefetch

  assert delivery.DIED in inspect.getsource(process_prefetch)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [1, 2])
def test_killed_workers_change_nothing(workers):
  expected, killed = take(build(configure()), 60), []
  stream = build(configure(num_workers=workers))
  with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    for step, batch in enumerate(expected):
      assert_equal(next(stream), batch)
      if step in (2, 32):  # batches prefetched before are still delivered
        worker = next(child for child in multiprocessing.active_children() if 'grain' in child.name)
        killed.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
  stream.close()
  assert len(set(killed)) == sum('a worker died before batch' in str(one.message) for one in warned) == 2
