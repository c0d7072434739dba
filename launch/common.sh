#!/usr/bin/env bash
# Functions and settings of the launch scripts, which source this file.
# shellcheck disable=SC2034 # used in the scripts
set -euo pipefail

stopped=75 # exit status: stopped on request, can be resumed
refused=2  # exit status: invalid input, a restart would not help
python=${PYTHON:-python3}

fail() { echo "error: $1" >&2; exit "$refused"; }

# JAX allocates 75 % of a GPU's memory by default, and compile reports compare with all of it. The rest here is for
# memory outside JAX's pool: the CUDA context, loaded kernels, NCCL buffers. JAX has two names for the setting and
# rejects both at once, so a setting under either name is kept.
memory=()
[[ -n ${XLA_CLIENT_MEM_FRACTION:-}${XLA_PYTHON_CLIENT_MEM_FRACTION:-} ]] || memory=(XLA_CLIENT_MEM_FRACTION=0.92)

# Run a command, or print it in a dry run.
call() {
  if [[ -n $dry_run ]]; then
    echo "${*@Q}"
  else
    "$@"
  fi
}

# Print the step of the newest checkpoint of the run in folder $1, 0 if there is none.
newest() {
  find "$1/checkpoints" -maxdepth 1 -regex '.*/[0-9]+' -printf '%f\n' 2>/dev/null | sort -n | tail -n 1 | grep . || echo 0
}

# Wait until process $1 has ended and return its status; a signal may interrupt a single wait.
await() {
  local status
  while true; do
    status=0
    wait "$1" || status=$?
    kill -0 "$1" 2>/dev/null || return "$status"
  done
}
