#!/usr/bin/env bash
# What the launch scripts share: they source this file.
# shellcheck disable=SC2034 # used where it is sourced
set -euo pipefail

stopped=75 # the run was asked to stop and can be resumed
refused=2  # bad input: starting again would not help
python=${PYTHON:-python3}

fail() { echo "error: $1" >&2; exit "$refused"; }

# JAX takes 75 % of a GPU's memory unless told otherwise; compile reports compare with all of it. What is left over here
# is for what lies outside of JAX's pool: CUDA's context, loaded kernels, the buffers of NCCL. JAX has two names for it
# and refuses both at once, so that one that is set already, under either name, is left alone.
memory=()
[[ -n ${XLA_CLIENT_MEM_FRACTION:-}${XLA_PYTHON_CLIENT_MEM_FRACTION:-} ]] || memory=(XLA_CLIENT_MEM_FRACTION=0.92)

# Runs a command, or prints it in a dry run.
call() {
  if [[ -n $dry_run ]]; then
    echo "${*@Q}"
  else
    "$@"
  fi
}

# The step of the newest checkpoint of the run in folder $1, 0 where there is none.
newest() {
  find "$1/checkpoints" -maxdepth 1 -regex '.*/[0-9]+' -printf '%f\n' 2>/dev/null | sort -n | tail -n 1 | grep . || echo 0
}

# The status of process $1 once it has ended: a signal may end a wait before.
await() {
  local status
  while true; do
    status=0
    wait "$1" || status=$?
    kill -0 "$1" 2>/dev/null || return "$status"
  done
}
