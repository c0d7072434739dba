#!/usr/bin/env bash
# Submits a run to SLURM, one task per GPU, and queues it again when it is preempted or its time is up.
#
#   launch/slurm.sh [--nodes=1] [--gpus=8] [--time=24:00:00] [--partition=NAME] [--account=NAME] [--dry_run] \
#       --config=configs/t2v_large.py --workdir=/shared/runs/t2v ...
#
# --gpus is per node; --gpus=0 runs one task per node on CPUs. Two minutes before the end of its time, and on
# preemption, SLURM sends SIGTERM: the run saves, exits with status 75 and goes back to the queue. So it does after a
# crash, or a process that hangs, as long as it got further than when it was started. The folder must be on a file system
# that all nodes share. Everything else goes to `python -m vdm_jax.main` as it is. PYTHON names the
# interpreter (python3).
set -euo pipefail

stopped=75 # the run was asked to stop and can be resumed
refused=2  # bad input: starting again would not help
python=${PYTHON:-python3}

# Inside the job: this script again, with what `python -m vdm_jax.main` is to be given.
if [[ ${1:-} == --inside ]]; then
  shift
  workdir=''
  for argument in "$@"; do
    [[ $argument != --workdir=* ]] || workdir=${argument#*=}
  done
  newest() { # the newest checkpoint's step, 0 where there is none
    find "$workdir/checkpoints" -maxdepth 1 -regex '.*/[0-9]+' -printf '%f\n' 2>/dev/null | sort -n | tail -n 1 | grep . || echo 0
  }
  # A task that does not end with the others is frozen: SLURM kills it a minute later.
  step=(srun --kill-on-bad-exit=0 --wait=60 --gpu-bind=none "$python" -m vdm_jax.main)
  status=0
  if [[ ${SLURM_RESTART_COUNT:-0} -eq 0 ]]; then
    "${step[@]}" --mode=preflight "$@"
  fi
  before=$(newest)
  "${step[@]}" "$@" &
  # SLURM signals the steps itself; the script only has to outlive them.
  trap ':' TERM USR1
  while true; do
    status=0
    wait $! || status=$?
    kill -0 $! 2>/dev/null || break
  done
  if [[ $status -eq $stopped ]]; then
    echo "stopped and saved: job $SLURM_JOB_ID goes back to the queue." >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  if [[ $status -ne 0 && $status -ne $refused && $(newest) -gt $before ]]; then
    echo "the run ended with status $status at step $(newest): job $SLURM_JOB_ID goes back to the queue." >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  exit "$status"
fi

nodes=1 gpus=8 time=24:00:00 dry_run='' workdir='' options=() arguments=()
for argument in "$@"; do
  case $argument in
    --nodes=*) nodes=${argument#*=} ;;
    --gpus=*) gpus=${argument#*=} ;;
    --time=*) time=${argument#*=} ;;
    --partition=* | --account=*) options+=("$argument") ;;
    --dry_run) dry_run=yes ;;
    --workdir=*) workdir=${argument#*=}; arguments+=("$argument") ;;
    *) arguments+=("$argument") ;;
  esac
done
fail() { echo "error: $1" >&2; exit 2; }
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes=$nodes is no number of nodes."
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus=$gpus is no number of GPUs."
[[ -n $workdir ]] || fail '--workdir=DIR is missing: name the folder of the run, on a shared file system.'
[[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: name the experiment, such as configs/digits.py.'

if [[ $gpus -gt 0 ]]; then
  options+=(--ntasks-per-node="$gpus" --gpus-per-node="$gpus")
else
  options+=(--ntasks-per-node=1)
fi
command=(sbatch --job-name="$(basename "$workdir")" --nodes="$nodes" --time="$time" "${options[@]}" --requeue
  --signal=TERM@120 --open-mode=append --output="$workdir/slurm-%j.log" "$0" --inside "${arguments[@]}")
if [[ -n $dry_run ]]; then
  echo "${command[*]@Q}"
  exit 0
fi
mkdir -p "$workdir"
"${command[@]}"
