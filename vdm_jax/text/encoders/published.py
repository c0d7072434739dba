"""The frozen encoders that go by a name, and the text function of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vdm_jax.text.encoders import bert_folder, clip_folder, t5_folder
from vdm_jax.text.encoders.encoder_folder import Published

if TYPE_CHECKING:
  from vdm_jax.text.frozen import FrozenEncoder

PUBLISHED: dict[str, Published] = bert_folder.PUBLISHED | clip_folder.PUBLISHED | t5_folder.PUBLISHED


def encoder(
  published: Published, path: str, length: int, dtype: str = 'float32', mesh: Mapping[str, int] | None = None
) -> FrozenEncoder:
  """Returns the text function of the folder `path`; arguments and errors are those of `frozen.FrozenEncoder`."""
  from vdm_jax.text.encoders import bert, clip, t5  # flax is not needed by data workers that only look up

  functions = {'bert': bert.Bert, 'clip_text_model': clip.Clip, 't5': t5.T5}
  return functions[published.family.model_type](published, path, length, dtype, mesh)
