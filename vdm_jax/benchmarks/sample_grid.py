"""The animated grids of the README: shipped models' videos of prompts from digit 0 to digit 9.

python -m vdm_jax.benchmarks.sample_grid --model=digits --out=vdm_jax/benchmarks/results/samples.gif
python -m vdm_jax.benchmarks.sample_grid --model=scenes_upsampler --out=vdm_jax/benchmarks/results/scenes.gif
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vdm_jax import pretrained
from vdm_jax.configuration import frames_per_second
from vdm_jax.generation.stages import open_generator, open_stages
from vdm_jax.inputs.paths import path_argument
from vdm_jax.runs import Run
from vdm_jax.video import tile, write_gif

# Model -> the prompt of each row, where `digit` is the number of the column and `other` is 9 - digit.
ROWS = {
  'digits': tuple(f'a {{digit}} moving {direction}' for direction in ('left', 'right', 'up', 'down')),
  'scenes_upsampler': (
    'a red {digit} moving right slowly and a cyan {other} bouncing left',
    'a yellow {digit} bouncing down and a magenta {other} moving up quickly',
  ),
}


def prompts(model: str) -> list[str]:
  """Return the prompts of all cells, row by row, ten per row."""
  return [row.format(digit=digit, other=9 - digit) for row in ROWS[model] for digit in range(10)]


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=path_argument, required=True, help='GIF to write')
  parser.add_argument('--model', choices=sorted(ROWS), default='digits')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  run = Run(pretrained.PREFIX + args.model)
  generate = open_generator(open_stages(run.config, run), run.config['sampling'], batch_size=20)
  videos = generate(prompts=prompts(args.model), seed=args.seed)
  write_gif(args.out, tile(videos, columns=10, frame_size=80), frames_per_second(run.config['sampling']))


if __name__ == '__main__':
  main()
