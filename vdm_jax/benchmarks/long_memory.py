"""Memory against the length of a video: peak resident set of the sampling command, one process per length.

    python -m vdm_jax.benchmarks.long_memory --workdir=runs/digits_long --num_frames 64 1024 --out=long_memory.json

The first length is sampled once before the measurement, because compilation needs more memory than sampling. Frames are
written as they are generated, so only the plan may grow. Other flags, such as --num_videos=1, are passed on to the
sampling command. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vdm_jax.benchmarks import timing
from vdm_jax.inputs.paths import path_argument


def peak_resident_set(command: Sequence[str]) -> int:
  """Run a command and return its peak resident set in bytes.

  Raises:
    RuntimeError: the command fails; the message has the end of its output.
  """
  with tempfile.TemporaryFile() as output:
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
      output.seek(0)
      raise RuntimeError(f'{" ".join(command)} failed:\n{output.read().decode(errors="replace")[-3000:]}')
  return usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', type=path_argument, required=True, help='trained run')
  parser.add_argument('--num_frames', type=int, nargs='+', default=[64, 1024], help='lengths to sample')
  parser.add_argument('--out', type=path_argument, default='', help='file for the report, which is printed in any case')
  args, flags = parser.parse_known_args(argv)
  peaks = {}
  for num_frames in [args.num_frames[0], *args.num_frames]:
    with tempfile.TemporaryDirectory() as folder:
      command = [
        sys.executable,
        '-m',
        'vdm_jax.main',
        '--mode=sample',
        f'--workdir={args.workdir}',
        f'--out={folder}',
        f'--num_frames={num_frames}',
        *flags,
      ]
      peaks[num_frames] = peak_resident_set(command)
  report = {
    'command': timing.command('long_memory', argv),
    'peak_bytes': peaks,
    'last_over_first': peaks[args.num_frames[-1]] / peaks[args.num_frames[0]],
  }
  print(json.dumps(report, indent=1))
  if args.out:
    Path(args.out).write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
  main()
