#!/usr/bin/env bash
# Trains on the GPUs of one machine, after a preflight check of half a minute.
#
#   launch/multi_gpu.sh [--processes=N] [--restarts=N] [--dry_run] --config=configs/t2v_large.py --workdir=runs/t2v ...
#
# One process drives all GPUs. --processes=8 starts eight processes, which share the GPUs of CUDA_VISIBLE_DEVICES, or
# all GPUs, equally. The same command resumes. After a crash or a hang, the run is restarted up to --restarts times (3),
# as long as each attempt gets further than the one before; processes that have not ended a minute after the first one
# (PATIENCE seconds) are killed. All other arguments are passed to `python -m vdm_jax.main`. PYTHON is the interpreter
# (python3). JAX uses 92 % of the memory of each GPU; XLA_CLIENT_MEM_FRACTION changes that. --dry_run prints the
# commands.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

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
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes is not a valid number of processes."
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts=$restarts is not a valid number of restarts."
[[ -n $workdir ]] || fail '--workdir=DIR is missing: set the folder of the run.'
[[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: set the experiment, such as configs/digits.py.'

port=${PORT:-$((20000 + RANDOM % 10000))}

# Set the CUDA_VISIBLE_DEVICES of each process: a share of its current list, or of all GPUs of the machine.
shares=()
assign_gpus() {
  local list index each gpus
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    list=$CUDA_VISIBLE_DEVICES
  elif [[ -n $dry_run ]]; then
    for ((index = 0; index < processes; index++)); do shares+=("<share $index of $processes>"); done
    return
  else
    list=$(nvidia-smi --query-gpu=index --format=csv,noheader) ||
      fail "nvidia-smi lists no GPUs for $processes processes: repair the driver, or set CUDA_VISIBLE_DEVICES."
  fi
  IFS=$', \n' read -r -d '' -a gpus <<< "$list" || true
  each=$((${#gpus[@]} / processes))
  [[ ${#gpus[@]} -ge $processes ]] ||
    fail "--processes=$processes needs as many GPUs, but there are ${#gpus[@]}: use a smaller number."
  [[ ${#gpus[@]} -eq $((each * processes)) ]] ||
    fail "--processes=$processes does not divide ${#gpus[@]} GPUs: use a divisor."
  for ((index = 0; index < processes; index++)); do
    shares+=("$(IFS=,; echo "${gpus[*]:index * each:each}")")
  done
}
[[ $processes -eq 1 ]] || assign_gpus

# Kill those of the given processes that still run a minute after the first one has ended: they hang.
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

# Start all processes with the given arguments and return the first nonzero status.
stop_requested='' pids=()
run_all() {
  local index pid status=0 each sweeper command share=() rendezvous=()
  pids=()
  for ((index = 0; index < processes; index++)); do
    if [[ $processes -gt 1 ]]; then
      share=(CUDA_VISIBLE_DEVICES="${shares[index]}")
      rendezvous=(--coordinator="localhost:$port" --num_processes="$processes" --process_id="$index")
    fi
    command=(env "${share[@]}" "${memory[@]}" "$python" -m vdm_jax.main "$@" "${rendezvous[@]}")
    if [[ -n $dry_run ]]; then
      echo "${command[*]@Q}"
    else
      "${command[@]}" &
      pids+=($!)
    fi
  done
  [[ -z $dry_run ]] || return 0
  sweep "${pids[@]}" > /dev/null 2>&1 &
  sweeper=$!
  for pid in "${pids[@]}"; do
    each=0
    await "$pid" || each=$?
    [[ $each -eq 0 || $status -ne 0 ]] || status=$each
  done
  pids=()
  kill "$sweeper" 2>/dev/null || true
  return "$status"
}

# Signalling one process is enough: all stop after the same step.
trap 'stop_requested=yes; [[ ${#pids[@]} -eq 0 ]] || kill -TERM "${pids[0]}" 2>/dev/null || true' TERM INT USR1
run_all --mode=preflight "${arguments[@]}"
for ((attempt = 0; ; attempt++)); do
  [[ -z $stop_requested ]] || exit "$stopped"
  before=$(newest "$workdir") status=0
  run_all "${arguments[@]}" || status=$?
  if [[ $status -eq 0 || $status -eq $stopped || $status -eq $refused || -n $stop_requested ]]; then
    exit "$status"
  fi
  if [[ $attempt -ge $restarts ]]; then
    echo "error: the run failed $((attempt + 1)) times, last with status $status: see the messages above." >&2
    exit "$status"
  fi
  if [[ $attempt -gt 0 && $(newest "$workdir") -le $before ]]; then
    echo "error: the run failed twice without a new checkpoint, with status $status: see the messages above." >&2
    exit "$status"
  fi
  echo "the run ended with status $status; restarting from step $(newest "$workdir")." >&2
done
