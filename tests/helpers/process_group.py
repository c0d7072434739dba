"""Start processes with virtual devices: a single one, or a process group."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Begins every script of `group_commands`.
HEAD = """
import sys
from vdm_jax import runtime
rendezvous = runtime.find_rendezvous(*sys.argv[1:4], environment={})
index, arguments = int(sys.argv[3]), sys.argv[4:]
"""


def virtual(devices: int) -> dict[str, str]:
  """Return the environment of a process that finds `devices` virtual devices, and the modules of the tests."""
  paths = (REPOSITORY, REPOSITORY / 'tests', REPOSITORY / 'tests' / 'training')
  flags = f'--xla_force_host_platform_device_count={devices} {os.environ.get("XLA_FLAGS", "")}'
  return dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)), XLA_FLAGS=flags)


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def group_commands(script: str, *arguments: object, count: int = 2) -> list[list[str]]:
  """Return the commands of `count` processes that run HEAD and a script with some arguments."""
  address = f'localhost:{free_port()}', str(count)
  return [[sys.executable, '-c', HEAD + script, *address, str(i), *map(str, arguments)] for i in range(count)]


class ProcessGroup:
  """Processes with `devices` virtual devices each, killed at the end; their output goes to files, not pipes."""

  def __init__(
    self,
    folder: Path,
    commands: Sequence[Sequence[str]],
    devices: int = 4,
    environments: Sequence[Mapping[str, str]] | None = None,
  ):
    folder.mkdir(parents=True, exist_ok=True)
    env = virtual(devices)
    self.logs = [folder / f'{i}.log' for i in range(len(commands))]
    self.processes = []
    for command, log, more in zip(commands, self.logs, environments or [{}] * len(commands), strict=True):
      with log.open('w') as file:
        self.processes.append(
          subprocess.Popen(command, env=env | more, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT)
        )

  def __enter__(self) -> ProcessGroup:
    return self

  def __exit__(self, *error: object) -> None:
    for process in self.processes:
      process.kill()  # SIGTERM would ask a process group for a checkpoint
      process.wait()

  def texts(self) -> list[str]:
    return [log.read_text() for log in self.logs]

  def wait(self, seconds: float = 120.0) -> list[int | None]:
    """Return exit statuses, None for processes that are still running after some seconds."""
    deadline = time.monotonic() + seconds
    for process in self.processes:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(deadline - time.monotonic(), 0.1))
    return [process.poll() for process in self.processes]

  def until(self, pattern: str, which: int = 0, seconds: float = 100.0) -> None:
    """Wait until the output of a process has a pattern."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, self.logs[which].read_text()):
      assert time.monotonic() < deadline and self.processes[which].poll() is None, '\n'.join(self.texts())
      time.sleep(0.05)
