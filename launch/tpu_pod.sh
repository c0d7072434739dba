#!/usr/bin/env bash
# A Cloud TPU slice from nothing to a trained run, and away again.
#
#   launch/tpu_pod.sh create --name=vdm --zone=us-central2-b --type=v4-256 [--spot] [--version=tpu-ubuntu2204-base]
#   launch/tpu_pod.sh run    --name=vdm --zone=us-central2-b --config=configs/t2v_large.py --workdir=/mnt/runs/t2v ...
#   launch/tpu_pod.sh resume --name=vdm --zone=us-central2-b --type=v4-256 [--spot] --config=... --workdir=... ...
#   launch/tpu_pod.sh delete --name=vdm --zone=us-central2-b
#
# `create` makes the slice and installs this commit of REPOSITORY on every worker. `run` first runs a preflight of half
# a minute, then trains, on all workers. `resume` does the same, after making the slice anew where it was preempted.
# --project=NAME and --dry_run, which prints the commands, go with each. The workdir must be the same folder on all
# workers: a mounted bucket or file store. REPOSITORY is the `origin` of this clone by default.
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-} name='' zone='' type='' version=tpu-ubuntu2204-base dry_run='' workdir='' options=() spot=() arguments=()
for argument in "${@:2}"; do
  case $argument in
    --name=*) name=${argument#*=} ;;
    --zone=*) zone=${argument#*=} ;;
    --type=*) type=${argument#*=} ;;
    --version=*) version=${argument#*=} ;;
    --project=*) options+=("$argument") ;;
    --spot) spot=(--spot) ;;
    --dry_run) dry_run=yes ;;
    --workdir=*) workdir=${argument#*=}; arguments+=("$argument") ;;
    *) arguments+=("$argument") ;;
  esac
done
fail() { echo "error: $1" >&2; exit 2; }
[[ -n $name ]] || fail '--name=NAME is missing: how the slice is called.'
[[ -n $zone ]] || fail '--zone=ZONE is missing: where the slice is, such as us-central2-b.'
options+=(--zone="$zone")

call() {
  if [[ -n $dry_run ]]; then
    echo "${*@Q}"
  else
    "$@"
  fi
}

tpu() { call gcloud compute tpus tpu-vm "$1" "$name" "${options[@]}" "${@:2}"; }

everywhere() { tpu ssh --worker=all --command="$1"; }

create() {
  local repository=${REPOSITORY:-$(git remote get-url origin 2>/dev/null || true)} commit
  [[ -n $type ]] || fail '--type=TYPE is missing: the kind of slice, such as v4-256.'
  [[ -n $repository ]] || fail 'this clone has no remote called origin: set REPOSITORY to a URL that the workers can clone.'
  commit=$(git rev-parse HEAD)
  tpu create --accelerator-type="$type" --version="$version" "${spot[@]}"
  everywhere "git clone --quiet ${repository@Q} vdm_jax && cd vdm_jax && git checkout --quiet $commit &&
    python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
}

# Under the preemption notice of Cloud TPU a run saves and exits with status 75.
train() {
  [[ -n $workdir ]] || fail '--workdir=DIR is missing: name the folder of the run, the same on all workers.'
  [[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: name the experiment, such as configs/digits.py.'
  everywhere "cd vdm_jax && .venv/bin/python -m vdm_jax.main --mode=preflight --coordinator=auto ${arguments[*]@Q}"
  everywhere "cd vdm_jax && .venv/bin/python -m vdm_jax.main --coordinator=auto ${arguments[*]@Q}"
}

state() { gcloud compute tpus tpu-vm describe "$name" "${options[@]}" --format='value(state)' 2>/dev/null || true; }

resume() {
  local now=READY
  [[ -n $dry_run ]] || now=$(state)
  if [[ $now != READY ]]; then
    echo "slice $name is ${now:-gone}: making it anew." >&2
    [[ -z $now ]] || tpu delete --quiet
    create
  fi
  train
}

case $action in
  create) create ;;
  run) train ;;
  resume) resume ;;
  delete) tpu delete --quiet ;;
  *) fail "${action:-no action} is not understood: choose create, run, resume or delete." ;;
esac
