"""The modes of the command line, one file each: flags in, exit status out."""

from vdm_jax.evaluation import PROTOCOLS, EvalOptions
from vdm_jax.evaluation.sweeps import SWEEPS
from vdm_jax.generation.request import Request
from vdm_jax.jobs.compile import compile_ahead
from vdm_jax.jobs.doctor import examine
from vdm_jax.jobs.embed import embed, read_host
from vdm_jax.jobs.evaluate import evaluate
from vdm_jax.jobs.preflight import PREFLIGHT_SECONDS, preflight
from vdm_jax.jobs.replay import replay
from vdm_jax.jobs.sample import sample
from vdm_jax.jobs.train import train

__all__ = [
  'PREFLIGHT_SECONDS',
  'PROTOCOLS',
  'SWEEPS',
  'EvalOptions',
  'Request',
  'compile_ahead',
  'embed',
  'evaluate',
  'examine',
  'preflight',
  'read_host',
  'replay',
  'sample',
  'train',
]
