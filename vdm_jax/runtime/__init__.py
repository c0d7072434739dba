"""Several processes that work as one: how they meet, what they tell each other, and how all of them end when one does.

A collective waits for every process, so one that stops early, or goes on no more, would leave the others waiting for
good. `company` lets the first to fail end all of them with its reason; `watch` finds the one that is late or gone.
"""

from vdm_jax.runtime.process_group import MEETING_SECONDS, agreed, exchange, joined, watched
from vdm_jax.runtime.rendezvous import Meeting, meeting

__all__ = ['MEETING_SECONDS', 'Meeting', 'agreed', 'exchange', 'joined', 'meeting', 'watched']
