#!/usr/bin/env bash
# The part of tpu_pod.sh that each worker of a slice does; tpu_pod.sh calls it there.
#
#   launch/tpu_worker.sh start --config=... --workdir=...   trains, whatever becomes of the connection
#   launch/tpu_worker.sh follow                             shows the log until the run ends, and ends with its status
#   launch/tpu_worker.sh stop                               asks the run to save and to end, and follows it
#
# gcloud calls again what a lost connection has cut short, so each may be called twice. ~/vdm_jax_run has the logs, of
# which `log` is the newest, what was started, and how it ended.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=common.sh
source launch/common.sh
state=$HOME/vdm_jax_run

# Held from start to end, by all processes of a run.
at_work() { ! flock --nonblock "$state/lock" true; }

start() {
  local log
  [[ -x .venv/bin/python ]] || fail "the library is not installed on $(hostname): tpu_pod.sh resume does that."
  mkdir -p "$state"
  exec 9>> "$state/lock"
  if ! flock --wait 2 9; then
    [[ $(< "$state/command") == "${*@Q}" ]] ||
      fail "$(hostname) is at work on another run, $(< "$state/command"): stop that first."
    echo "$(hostname) is at work on this run already."
    return
  fi
  log=$state/$(date -u +%Y%m%d-%H%M%S).log
  rm -f "$state/status"
  echo "${*@Q}" > "$state/command"
  ln -sfn "$log" "$state/log"
  setsid launch/tpu_worker.sh attend "$@" < /dev/null >> "$log" 2>&1 &
  echo $! > "$state/pid"
}

# One process that drives all local devices, with preflight and restarts: what multi_gpu.sh does for GPUs.
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
  [[ -e $state/pid ]] || fail "no run was started on $(hostname)."
  ! at_work || until=(--follow --pid="$(< "$state/pid")")
  tail --lines=50 "${until[@]}" "$state/log"
  [[ -e $state/status ]] || fail "the run on $(hostname) was killed, or the machine started anew: see $state/log."
  exit "$(< "$state/status")"
}

stop() {
  [[ ! -e $state/pid ]] || ! at_work || kill -TERM "$(< "$state/pid")" || true
  follow
}

case ${1:-} in
  start | attend | follow | stop) "$@" ;;
  *) fail "${1:-no action} is not understood: choose start, follow or stop." ;;
esac
