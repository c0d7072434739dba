"""Entry point of `python -m vdm_jax.benchmarks.paper_claims`, see `command`."""

from vdm_jax.benchmarks.paper_claims.command import main

if __name__ == '__main__':
  main()
