"""The jobs behind the command line: each puts the rooms together for one mode and returns an exit status."""

from vdm_jax.evaluation import PROTOCOLS, EvalOptions
from vdm_jax.evaluation.sweeps import SWEEPS
from vdm_jax.jobs.arguments import Request, read_frame_rate, read_frame_rates, read_size
from vdm_jax.jobs.embed import embed, read_host
from vdm_jax.jobs.evaluate import evaluate
from vdm_jax.jobs.preflight import PREFLIGHT_SECONDS, preflight
from vdm_jax.jobs.replay import replay
from vdm_jax.jobs.reports import compile_ahead, examine
from vdm_jax.jobs.sample import sample
from vdm_jax.jobs.train import train
from vdm_jax.text.prompts import read_prompts

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
  'read_frame_rate',
  'read_frame_rates',
  'read_host',
  'read_prompts',
  'read_size',
  'replay',
  'sample',
  'train',
]
