"""Narrow feature networks on disk, as make_feature_fixtures.py wrote them, and what PyTorch made of them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.evaluation.features.c3d import C3D
from vdm_jax.evaluation.features.i3d import I3D
from vdm_jax.evaluation.features.inception import Inception

FIXTURES = Path(__file__).parent / 'fixtures'
NARROW = {
  'i3d': functools.partial(I3D, classes=5, width=1 / 60),
  'c3d': functools.partial(C3D, classes=6, width=1 / 96),
  'inception': functools.partial(Inception, classes=7, width=1 / 64),
}
FILES = {'i3d': 'i3d_pretrained_400.pt', 'c3d': 'c3d_ucf101.pt', 'inception': 'pt_inception.pth'}


@pytest.fixture(scope='session')
def golden() -> dict[str, np.ndarray]:
  with np.load(FIXTURES / 'features.npz') as archive:
    return dict(archive)


@pytest.fixture(scope='session')
def weight_files(tmp_path_factory) -> dict[str, Path]:
  """Returns network -> its file, in a folder with the mean clip of C3D."""
  folder = tmp_path_factory.mktemp('weights')
  for name in FILES.values():
    (folder / name).write_bytes((FIXTURES / name).read_bytes())
  mean = np.fromfunction(lambda c, t, h, w: 90 + 5 * c + t + h / 8 - w / 16, (3, 16, 128, 171)).astype(np.float32)
  np.savez_compressed(folder / 'mean2.npz', mean=mean)
  return {network: folder / name for network, name in FILES.items()}


@pytest.fixture(scope='session')
def narrow() -> dict[str, functools.partial]:
  """Returns network -> constructor of the narrow one that the files are of."""
  return NARROW
