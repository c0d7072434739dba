"""Prefetching of batches by threads or worker processes, with recovery from the death of a worker."""

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
ATTEMPTS = 3  # times that workers may die before the same batch
DIED = 'terminated unexpectedly'  # in Grain's error about a worker that was killed or crashed


def deliver(batches: grain.MapDataset, start: int, num_workers: int) -> Iterator[Batch]:
  """Return batches from `start` on, prefetched by threads of this process or by worker processes.

  When a worker dies (killed for lack of memory, or by a crash while decoding), all workers are replaced, and the stream
  continues with the first batch that was not delivered: no batch is lost or repeated.

  Args:
    batches: batches by step.
    start: first step.
    num_workers: number of worker processes; 0: threads of this process.

  Raises:
    RuntimeError: workers died ATTEMPTS times before the same batch.
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
          'data.num_workers; if not, a clip crashes the decoder: find it with `python -m vdm_jax.data inspect`, and '
          'remove it.'
        ) from error
      warnings.warn(
        f'data: a worker died before batch {step} ({error}); continuing there with new workers.', stacklevel=1
      )
    finally:
      iterator.close()


def _iterator(batches: grain.MapDataset, num_workers: int) -> grain.DatasetIterator:
  stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=BATCHES_AHEAD))
  if num_workers:
    if not flags.FLAGS.is_parsed():  # in a notebook or a test; Grain's workers need it
      flags.FLAGS.mark_as_parsed()
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2))
  return iter(stream)


def _close_at_exit(stream: Iterator[Batch]) -> Iterator[Batch]:
  """Close the stream at exit, before Grain's modules are torn down: its workers would print long tracebacks."""
  alive = weakref.ref(stream)

  def close() -> None:
    with contextlib.suppress(ValueError):  # another thread is waiting for a batch
      if (stream := alive()) is not None:
        stream.close()

  atexit.register(close)
  return stream


def _copy(batch: Batch) -> Batch:
  """Copy a batch out of the memory that it shares with a worker, which may end before it."""
  cond = Conditioning(*(None if field is None else np.array(field) for field in batch.cond))
  return Batch(np.array(batch.x), cond, None if batch.mask is None else np.array(batch.mask))
