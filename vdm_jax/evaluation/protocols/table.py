"""The table of protocols. To add one: write a `Protocol` (see `contract`), and enter it here."""

from __future__ import annotations

from vdm_jax.evaluation.digits.digit_protocol import DIGITS
from vdm_jax.evaluation.digits.scene_protocol import SCENES
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.protocols.others import OWN, STYLEGAN_V
from vdm_jax.evaluation.protocols.snap import SNAP_INTERNAL, SNAP_INTERNAL_UPSAMPLED, SNAP_MSRVTT, SNAP_UCF101
from vdm_jax.evaluation.protocols.vdm import (
  VDM_BAIR,
  VDM_KINETICS,
  VDM_KINETICS_REPLACEMENT,
  VDM_T2V,
  VDM_T2V_64,
  VDM_UCF101,
)

PROTOCOLS: dict[str, Protocol] = {
  protocol.name: protocol
  for protocol in (
    VDM_UCF101,
    VDM_BAIR,
    DIGITS,
    SCENES,
    VDM_KINETICS,
    VDM_KINETICS_REPLACEMENT,
    VDM_T2V,
    VDM_T2V_64,
    SNAP_UCF101,
    SNAP_MSRVTT,
    SNAP_INTERNAL,
    SNAP_INTERNAL_UPSAMPLED,
    STYLEGAN_V,
    OWN,
  )
}
