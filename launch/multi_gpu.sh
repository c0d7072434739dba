#!/usr/bin/env bash
# Trains on the GPUs of one machine, after a preflight of half a minute.
#
#   launch/multi_gpu.sh [--processes=N] [--restarts=N] [--dry_run] --config=configs/t2v_large.py --workdir=runs/t2v ...
#
# One process drives all GPUs; --processes=8 starts eight, with an equal share each of the GPUs that CUDA_VISIBLE_DEVICES
# lists, or of all. The same command resumes. After a crash, or a process that hangs, it starts again up to --restarts
# times (3), as long as each attempt got further than the last; processes that do not end with the others are killed a
# minute later (PATIENCE seconds). Everything else goes to `python -m vdm_jax.main` as it is. PYTHON names the
# interpreter (python3). JAX gets 92 % of each GPU's memory; XLA_CLIENT_MEM_FRACTION changes that.
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
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes is no number of processes."
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts=$restarts is no number."
[[ -n $workdir ]] || fail '--workdir=DIR is missing: name the folder of the run.'
[[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: name the experiment, such as configs/digits.py.'

port=${PORT:-$((20000 + RANDOM % 10000))}

# The GPUs to share out, for CUDA_VISIBLE_DEVICES of each process: those it lists already, else all of the machine.
shares=()
share_out() {
  local list index each gpus
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    list=$CUDA_VISIBLE_DEVICES
  elif [[ -n $dry_run ]]; then
    for ((index = 0; index < processes; index++)); do shares+=("<share $index of $processes>"); done
    return
  else
    list=$(nvidia-smi --query-gpu=index --format=csv,noheader) ||
      fail "nvidia-smi lists no GPUs for $processes processes: mend the driver, or name them in CUDA_VISIBLE_DEVICES."
  fi
  IFS=$', \n' read -r -d '' -a gpus <<< "$list" || true
  each=$((${#gpus[@]} / processes))
  [[ ${#gpus[@]} -ge $processes ]] ||
    fail "$processes processes need a GPU each, but there are ${#gpus[@]}: give a smaller --processes."
  [[ ${#gpus[@]} -eq $((each * processes)) ]] ||
    fail "${#gpus[@]} GPUs cannot be shared out evenly to $processes processes: choose a divisor."
  for ((index = 0; index < processes; index++)); do
    shares+=("$(IFS=,; echo "${gpus[*]:index * each:each}")")
  done
}
[[ $processes -eq 1 ]] || share_out

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

# Starts all processes with the arguments given and returns the first bad status.
asked='' pids=()
run_all() {
  local index pid status=0 each sweeper command share=() meeting=()
  pids=()
  for ((index = 0; index < processes; index++)); do
    if [[ $processes -gt 1 ]]; then
      share=(CUDA_VISIBLE_DEVICES="${shares[index]}")
      meeting=(--coordinator="localhost:$port" --num_processes="$processes" --process_id="$index")
    fi
    command=(env "${share[@]}" "${memory[@]}" "$python" -m vdm_jax.main "$@" "${meeting[@]}")
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

# One of them is enough: all stop after the same step.
trap 'asked=yes; [[ ${#pids[@]} -eq 0 ]] || kill -TERM "${pids[0]}" 2>/dev/null || true' TERM INT USR1
run_all --mode=preflight "${arguments[@]}"
for ((attempt = 0; ; attempt++)); do
  [[ -z $asked ]] || exit "$stopped"
  before=$(newest "$workdir") status=0
  run_all "${arguments[@]}" || status=$?
  if [[ $status -eq 0 || $status -eq $stopped || $status -eq $refused || -n $asked ]]; then
    exit "$status"
  fi
  if [[ $attempt -ge $restarts ]]; then
    echo "error: the run failed $((attempt + 1)) times, the last with status $status: read the messages above." >&2
    exit "$status"
  fi
  if [[ $attempt -gt 0 && $(newest "$workdir") -le $before ]]; then
    echo "error: the run failed twice without a new checkpoint, with status $status: read the messages above." >&2
    exit "$status"
  fi
  echo "the run ended with status $status; starting again from step $(newest "$workdir")." >&2
done
