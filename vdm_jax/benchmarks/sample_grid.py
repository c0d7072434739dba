"""The animated grid of the README: what a model of the package makes of forty prompts.

    python -m vdm_jax.benchmarks.sample_grid --out=vdm_jax/benchmarks/results/samples.gif
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import vdm_jax
from vdm_jax import checkpoints, data, generation

MODEL = 'pretrained:digits'
DIRECTIONS = ('left', 'right', 'up', 'down')


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', required=True, help='GIF to write')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  model, params = vdm_jax.load(MODEL)
  sampling = checkpoints.read_config(MODEL)['sampling']
  prompts = [f'a {digit} moving {direction}' for direction in DIRECTIONS for digit in range(10)]
  videos = generation.make_generator(model, sampling)(params, prompts=prompts, seed=args.seed)
  data.write_gif(args.out, data.tile(videos, columns=10, frame_size=80), sampling['fps'])


if __name__ == '__main__':
  main()
