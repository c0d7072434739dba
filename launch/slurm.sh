#!/usr/bin/env bash
# Submits a run to SLURM, one task per GPU, and requeues it after preemption or its time limit.
#
#   launch/slurm.sh [--nodes=1] [--gpus=8] [--time=24:00:00] [--partition=NAME] [--account=NAME] [--sbatch=OPTION ...] \
#       [--dry_run] --config=configs/t2v_large.py --workdir=/shared/runs/t2v ...
#
# --gpus is per node; --gpus=0 runs one task per node on CPUs. A task has 8 cores. --sbatch passes any option to sbatch,
# as often as needed: --sbatch=--cpus-per-task=12 --sbatch=--mem=0. Two minutes before the time limit, and on preemption,
# SLURM sends SIGTERM: the run saves, exits with status 75 and is requeued. It is also requeued after a crash or a hang,
# if it got further than its start. Each start begins with a preflight check of half a minute. The folder must be on a
# file system that all nodes share. All other arguments are passed to `python -m vdm_jax.main`. PYTHON is the
# interpreter (python3). --dry_run prints the commands.
set -euo pipefail

# Inside the job: SLURM's copy of this script, with the folder of the original and the arguments of vdm_jax.main.
if [[ ${1:-} == --inside ]]; then
  # shellcheck source-path=SCRIPTDIR source=common.sh
  source "$2/common.sh"
  shift 2
  workdir=''
  for argument in "$@"; do
    [[ $argument != --workdir=* ]] || workdir=${argument#*=}
  done
  # Recent releases of srun give a task one core unless the number is repeated here.
  cores=()
  [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || cores=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
  # A task that does not end with the others hangs: SLURM kills it a minute later.
  step=(srun "${cores[@]}" --kill-on-bad-exit=0 --wait=60 --gpu-bind=none env "${memory[@]}" "$python" -m vdm_jax.main)
  "${step[@]}" --mode=preflight "$@"
  before=$(newest "$workdir") status=0
  # SLURM signals the job steps itself; the script only has to outlive them.
  trap ':' TERM USR1
  "${step[@]}" "$@" &
  await $! || status=$?
  if [[ $status -eq $stopped ]]; then
    echo "stopped and saved: job $SLURM_JOB_ID is requeued." >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  if [[ $status -ne 0 && $status -ne $refused && $(newest "$workdir") -gt $before ]]; then
    echo "the run ended with status $status at step $(newest "$workdir"): job $SLURM_JOB_ID is requeued." >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  exit "$status"
fi

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"

nodes=1 gpus=8 time=24:00:00 dry_run='' workdir='' options=(--cpus-per-task=8) arguments=()
for argument in "$@"; do
  case $argument in
    --nodes=*) nodes=${argument#*=} ;;
    --gpus=*) gpus=${argument#*=} ;;
    --time=*) time=${argument#*=} ;;
    --partition=* | --account=*) options+=("$argument") ;;
    --sbatch=*) options+=("${argument#*=}") ;;
    --dry_run) dry_run=yes ;;
    --workdir=*) workdir=${argument#*=}; arguments+=("$argument") ;;
    *) arguments+=("$argument") ;;
  esac
done
for argument in "${arguments[@]}"; do
  case ${argument%%=*} in # flags of the library have no hyphens; it would reject these, but only after the wait in the queue
    --*-* | --mem | --qos | --exclusive | --constraint | --gres | --nodelist | --exclude | --reservation | --dependency)
      fail "${argument%%=*} is an option of sbatch: pass it as --sbatch=$argument." ;;
  esac
done
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes=$nodes is not a valid number of nodes."
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus=$gpus is not a valid number of GPUs."
[[ -n $workdir ]] || fail '--workdir=DIR is missing: set the folder of the run, on a shared file system.'
[[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: set the experiment, such as configs/digits.py.'

if [[ $gpus -gt 0 ]]; then
  options=(--ntasks-per-node="$gpus" --gpus-per-node="$gpus" "${options[@]}")
else
  options=(--ntasks-per-node=1 "${options[@]}")
fi
command=(sbatch --job-name="$(basename "$workdir")" --nodes="$nodes" --time="$time" --requeue --signal=TERM@120
  --open-mode=append --output="$workdir/slurm-%j.log" "${options[@]}" "$here/slurm.sh" --inside "$here" "${arguments[@]}")
call mkdir -p "$workdir" # sbatch does not create the folder of its log
call "${command[@]}"
