"""The environment of the tests; it must stand before the first `import jax`, so it is set at import.

`JAX_PLATFORMS`, `JAX_COMPILATION_CACHE_DIR` and the rest may be overridden from outside. Subprocesses started
by a test inherit all of it.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import zlib
from pathlib import Path

import pytest
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent

# Compiling takes far longer than running anything this small, so code is neither optimized nor split for threads, and
# where XLA still has its older emitter of loops, the quicker one to compile, that one is taken.
_XLA_FLAGS = ['--xla_backend_optimization_level=0', '--xla_cpu_parallel_codegen_split_count=1']
if Version(importlib.metadata.version('jaxlib')) < Version('0.11'):
  _XLA_FLAGS.append('--xla_cpu_use_fusion_emitters=false')

_DEFAULTS = {
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': ' '.join(_XLA_FLAGS),
  # Most of the time of a first run is compilation, so compiled programs are kept between runs.
  'JAX_COMPILATION_CACHE_DIR': str(REPOSITORY / '.jax_cache'),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
  # A hub look-up in a test would be a bug; this turns it into an error instead of a download.
  'HF_HUB_OFFLINE': '1',
  # What is printed does not depend on how busy the machine is.
  'VDM_JAX_PROGRESS': '0',
  # Otherwise importing transformers prints that PyTorch is absent, which is intended here.
  'TRANSFORMERS_NO_ADVISORY_WARNINGS': '1',
}


def _threads_per_worker() -> int:
  workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
  return max(1, (os.cpu_count() or 1) // workers)


for _name, _value in _DEFAULTS.items():
  os.environ.setdefault(_name, _value)
if 'PYTEST_XDIST_WORKER' in os.environ:
  # Each xdist worker takes its share of the cores: XLA reads NPROC, numpy the others.
  for _name in ('NPROC', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(_name, str(_threads_per_worker()))


def pytest_addoption(parser):
  parser.addoption(
    '--share', metavar='K/N', help='run only one of N shares of the tests, chosen by name; K counts from 0'
  )


def pytest_collection_modifyitems(config, items):
  """Keeps the tests of the share that `--share` names; all shares together are all tests, each once."""
  if (text := config.getoption('--share')) is None:
    return
  share, shares = map(int, text.split('/'))
  if not 0 <= share < shares:
    raise pytest.UsageError(f'--share={text} is not a valid share: K of K/N counts from 0 to N - 1.')
  kept = [item for item in items if zlib.crc32(item.nodeid.encode()) % shares == share]
  config.hook.pytest_deselected(items=[item for item in items if item not in kept])
  items[:] = kept


def pytest_collection_finish():
  """Tracing makes many objects that live as long as their programs; looking for cycles among them took a tenth."""
  gc.freeze()
  gc.set_threshold(100_000, 20, 100)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Keeps the tests of a file on one worker, so that what they share is made once; files go in their order."""
  from xdist.scheduler import LoadFileScheduling

  config.option.loadscopereorder = False
  return LoadFileScheduling(config, log)
