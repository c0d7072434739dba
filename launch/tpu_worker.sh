#!/usr/bin/env bash
# The part of tpu_pod.sh that runs on each worker of a slice; tpu_pod.sh calls it there.
#
#   launch/tpu_worker.sh start --config=... --workdir=...   trains, independently of the connection
#   launch/tpu_worker.sh follow                             shows the log until the run ends, and exits with its status
#   launch/tpu_worker.sh stop                               makes the run save and end, and follows it
#
# gcloud repeats a call after a lost connection, so each may be called twice. ~/vdm_jax_run contains the logs (`log` is
# the newest), the arguments of the run, and its exit status.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=common.sh
source launch/common.sh
state=$HOME/vdm_jax_run

# Return whether a run holds the lock, which its processes hold from start to end.
running() { ! flock --nonblock "$state/lock" true; }

start() {
  local log
  [[ -x .venv/bin/python ]] || fail "the library is not installed on $(hostname): tpu_pod.sh resume installs it."
  mkdir -p "$state"
  exec 9>> "$state/lock"
  if ! flock --wait 2 9; then
    [[ $(< "$state/command") == "${*@Q}" ]] ||
      fail "$(hostname) is busy with another run, $(< "$state/command"): stop that first."
    echo "$(hostname) is already busy with this run."
    return
  fi
  log=$state/$(date -u +%Y%m%d-%H%M%S).log
  rm -f "$state/status"
  echo "${*@Q}" > "$state/command"
  ln -sfn "$log" "$state/log"
  setsid launch/tpu_worker.sh attend "$@" < /dev/null >> "$log" 2>&1 &
  echo $! > "$state/pid"
}

# Run one process that drives all local devices, with preflight and restarts, as multi_gpu.sh does for GPUs.
attend() {
  local run='' status=0
  trap '[[ -z $run ]] || kill -TERM "$run" 2>/dev/null || true' TERM
  PYTHON=$PWD/.venv/bin/python launch/multi_gpu.sh --coordinator=auto "$@" &
  run=$!
  await "$run" || status=$?
  echo "$status" > "$state/status"
}

follow() {
  local until=()
  [[ -e $state/pid ]] || fail "no run was started on $(hostname): start one with tpu_pod.sh run."
  ! running || until=(--follow --pid="$(< "$state/pid")")
  tail --lines=50 "${until[@]}" "$state/log"
  [[ -e $state/status ]] || fail "the run on $(hostname) was killed, or the machine restarted: see $state/log."
  exit "$(< "$state/status")"
}

stop() {
  [[ ! -e $state/pid ]] || ! running || kill -TERM "$(< "$state/pid")" || true
  follow
}

case ${1:-} in
  start | attend | follow | stop) "$@" ;;
  *) fail "${1:-no action} is not a valid action: use start, follow or stop." ;;
esac
