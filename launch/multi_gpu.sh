#!/usr/bin/env bash
# Trains on the GPUs of one machine, after a preflight of half a minute.
#
#   launch/multi_gpu.sh [--processes=N] [--restarts=N] [--dry_run] --config=configs/t2v_large.py --workdir=runs/t2v ...
#
# One process drives all GPUs; --processes=8 starts eight, with an equal share of the GPUs each. The same command
# resumes. After a crash, or a process that hangs, it starts again up to --restarts times (3), as long as each attempt got
# further than the last; processes that do not end with the others are killed a minute later (PATIENCE seconds).
# Everything else goes to `python -m vdm_jax.main` as it is. PYTHON names the interpreter (python3).
set -euo pipefail

processes=1 restarts=3 dry_run='' workdir='' arguments=()
for argument in "$@"; do
  case $argument in
    --processes=*) processes=${argument#*=} ;;
    --restarts=*) restarts=${argument#*=} ;;
    --dry_run) dry_run=yes ;;
    --workdir=*) workdir=${argument#*=}; arguments+=("$argument") ;;
    *) arguments+=("$argument") ;;
  esac
done
fail() { echo "error: $1" >&2; exit 2; }
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes is no number of processes."
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts=$restarts is no number."
[[ -n $workdir ]] || fail '--workdir=DIR is missing: name the folder of the run.'
[[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: name the experiment, such as configs/digits.py.'

stopped=75 # the run was asked to stop and can be resumed
refused=2  # bad input: starting again would not help
python=${PYTHON:-python3}
port=${PORT:-$((20000 + RANDOM % 10000))}

# Kills those of the given processes that are still there a minute after the first of them has ended: they are frozen.
sweep() {
  local pid left=${PATIENCE:-60}
  while sleep 1; do
    for pid in "$@"; do
      kill -0 "$pid" 2>/dev/null || break 2
    done
  done
  for (( ; left > 0; left--)); do sleep 1; done
  kill -KILL "$@" 2>/dev/null
}

gpus() { nvidia-smi --list-gpus | wc -l; }

# The devices of process $1, for CUDA_VISIBLE_DEVICES.
share() {
  local each=$(($(gpus) / processes))
  seq -s, $(($1 * each)) $(($1 * each + each - 1))
}

# Starts all processes with the arguments given, passes signals on to them, and returns the first bad status.
run_all() {
  local index pid status=0 each sweeper pids=()
  if [[ $processes -eq 1 ]]; then
    set -- "$python" -m vdm_jax.main "$@"
    [[ -z $dry_run ]] || { echo "${*@Q}"; return 0; }
    "$@" &
    pids=($!)
  else
    if [[ -z $dry_run && $(($(gpus) % processes)) -ne 0 ]]; then
      fail "$(gpus) GPUs cannot be shared out evenly to $processes processes: choose a divisor."
    fi
    for ((index = 0; index < processes; index++)); do
      local command=("$python" -m vdm_jax.main "$@" --coordinator="localhost:$port" --num_processes="$processes"
        --process_id="$index")
      if [[ -n $dry_run ]]; then
        echo "CUDA_VISIBLE_DEVICES=<share $index of $processes> ${command[*]@Q}"
        continue
      fi
      CUDA_VISIBLE_DEVICES=$(share "$index") "${command[@]}" &
      pids+=($!)
    done
    [[ -z $dry_run ]] || return 0
  fi
  # One of them is enough: all stop after the same step.
  trap 'asked=yes; kill -TERM "${pids[0]}" 2>/dev/null || true' TERM INT USR1
  sweep "${pids[@]}" > /dev/null 2>&1 &
  sweeper=$!
  for pid in "${pids[@]}"; do
    while true; do
      each=0
      wait "$pid" || each=$?
      kill -0 "$pid" 2>/dev/null || break # else a signal ended the wait, not the process
    done
    [[ $each -eq 0 || $status -ne 0 ]] || status=$each
  done
  trap - TERM INT USR1
  kill "$sweeper" 2>/dev/null || true
  return "$status"
}

newest() { # the newest checkpoint's step, 0 where there is none
  find "$workdir/checkpoints" -maxdepth 1 -regex '.*/[0-9]+' -printf '%f\n' 2>/dev/null | sort -n | tail -n 1 | grep . || echo 0
}

asked=''
run_all --mode=preflight "${arguments[@]}"
for ((attempt = 0; ; attempt++)); do
  before=$(newest) status=0
  run_all "${arguments[@]}" || status=$?
  if [[ $status -eq 0 || $status -eq $stopped || $status -eq $refused || -n $asked ]]; then
    exit "$status"
  fi
  if [[ $attempt -ge $restarts ]]; then
    echo "error: the run failed $((attempt + 1)) times, the last with status $status: read the messages above." >&2
    exit "$status"
  fi
  if [[ $attempt -gt 0 && $(newest) -le $before ]]; then
    echo "error: the run failed twice without a new checkpoint, with status $status: read the messages above." >&2
    exit "$status"
  fi
  echo "the run ended with status $status; starting again from step $(newest)." >&2
done
