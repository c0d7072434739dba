"""Hands out batches that threads or worker processes prepare, and outlives the death of a worker."""

from __future__ import annotations

import atexit
import contextlib
import warnings
import weakref
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from vdm_jax.types import Batch, Conditioning

THREADS = 4
BATCHES_AHEAD = 4
ATTEMPTS = 3  # of new workers at one batch
DIED = 'terminated unexpectedly'  # what Grain says of a worker that was killed or crashed


def deliver(batches: grain.MapDataset, start: int, num_workers: int) -> Iterator[Batch]:
  """Batches from `start` on, prepared ahead by threads of this process, or by so many others.

  When a worker dies (of the system's shortage of memory, or of a crash while decoding), all are replaced, and the
  stream goes on with the first batch that was not handed out: nothing is lost or repeated. Raises RuntimeError when
  this happens ATTEMPTS times at one batch.
  """
  return _close_at_exit(_deliver(batches, start, num_workers))


def _deliver(batches: grain.MapDataset, start: int, num_workers: int) -> Iterator[Batch]:
  step, deaths = start, 0
  while True:
    iterator = _iterator(batches[step:], num_workers)
    try:
      for batch in iterator:
        yield _copy(batch) if num_workers else batch
        step, deaths = step + 1, 0
      return
    except RuntimeError as error:
      if not num_workers or DIED not in str(error):
        raise
      deaths += 1
      if deaths == ATTEMPTS:
        raise RuntimeError(
          f'data: workers died {ATTEMPTS} times before batch {step} ({error}); if memory is short, lower '
          'data.num_workers; else a clip crashes the decoder: find it with `python -m vdm_jax.data inspect`, and '
          'remove it.'
        ) from error
      warnings.warn(
        f'data: a worker died before batch {step} ({error}); the stream goes on there with new workers.', stacklevel=1
      )
    finally:
      iterator.close()


def _iterator(batches: grain.MapDataset, num_workers: int) -> grain.DatasetIterator:
  stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=BATCHES_AHEAD))
  if num_workers:
    if not flags.FLAGS.is_parsed():  # in a notebook or a test; Grain's workers insist on it
      flags.FLAGS.mark_as_parsed()
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2))
  return iter(stream)


def _close_at_exit(stream: Iterator[Batch]) -> Iterator[Batch]:
  """A stream still alive at exit would lose Grain's modules before its workers, and complain at length."""
  alive = weakref.ref(stream)

  def close() -> None:
    with contextlib.suppress(ValueError):  # another thread is waiting for a batch
      if (stream := alive()) is not None:
        stream.close()

  atexit.register(close)
  return stream


def _copy(batch: Batch) -> Batch:
  """Out of the memory shared with a worker, which must not outlive it."""
  cond = Conditioning(*(None if field is None else np.array(field) for field in batch.cond))
  return Batch(np.array(batch.x), cond)
