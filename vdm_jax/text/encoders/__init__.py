"""Frozen text encoders: one file per architecture, and the table in which each is entered."""

from __future__ import annotations

from vdm_jax.text.encoders import bert, clip, t5
from vdm_jax.text.encoders.contract import Encoder

# The encoders by name, the values of `data.text`. See `contract` for what an entry is.
ENCODERS: dict[str, Encoder] = bert.ENCODERS | clip.ENCODERS | t5.ENCODERS
