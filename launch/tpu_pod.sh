#!/usr/bin/env bash
# Creates a Cloud TPU slice, trains on it, and deletes it.
#
#   launch/tpu_pod.sh create --name=vdm --zone=us-central2-b --type=v4-256 [--spot] [--version=tpu-ubuntu2204-base]
#   launch/tpu_pod.sh run    --name=vdm --zone=us-central2-b --config=configs/t2v_large.py --workdir=/mnt/runs/t2v ...
#   launch/tpu_pod.sh follow --name=vdm --zone=us-central2-b
#   launch/tpu_pod.sh stop   --name=vdm --zone=us-central2-b
#   launch/tpu_pod.sh resume --name=vdm --zone=us-central2-b --type=v4-256 [--spot] --config=... --workdir=... ...
#   launch/tpu_pod.sh delete --name=vdm --zone=us-central2-b
#
# `create` creates the slice and installs this commit of REPOSITORY on every worker. `run` starts a preflight check of
# half a minute and then training on all workers, restarts after a crash like multi_gpu.sh, and follows the logs
# (~/vdm_jax_run/log on each worker). The run survives a lost connection: `follow`, or the same `run`, shows it again
# and exits with its status. `stop` makes it save and end, with status 75. `resume` recreates the slice if it was
# preempted or stopped, and then does what `run` does.
# All take --project=NAME and --dry_run, which prints the commands. The workdir must be the same folder on all workers:
# a mounted bucket or file store. REPOSITORY is by default the `origin` of this clone.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=common.sh
source launch/common.sh

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
repository=${REPOSITORY:-$(git remote get-url origin 2>/dev/null || true)}

# All arguments are checked before any call: slices cost money.
[[ $action =~ ^(create|run|follow|stop|resume|delete)$ ]] ||
  fail "${action:-no action} is not a valid action: use create, run, follow, stop, resume or delete."
[[ -n $name ]] || fail '--name=NAME is missing: set the name of the slice.'
[[ -n $zone ]] || fail '--zone=ZONE is missing: set the zone of the slice, such as us-central2-b.'
if [[ $action == create || $action == resume ]]; then
  [[ -n $type ]] || fail '--type=TYPE is missing: set the type of the slice, such as v4-256.'
  [[ -n $repository ]] || fail 'this clone has no remote named origin: set REPOSITORY to a URL that the workers can clone.'
  commit=$(git rev-parse HEAD)
fi
if [[ $action == run || $action == resume ]]; then
  [[ -n $workdir ]] || fail '--workdir=DIR is missing: set the folder of the run, the same on all workers.'
  [[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: set the experiment, such as configs/digits.py.'
elif [[ ${#arguments[@]} -gt 0 ]]; then
  fail "${arguments[0]} is not an argument of $action: remove it."
fi
options+=(--zone="$zone")

tpu() { call gcloud compute tpus tpu-vm "$1" "$name" "${options[@]}" "${@:2}"; }

on_all_workers() { tpu ssh --worker=all --command="$1"; }

create() { tpu create --accelerator-type="$type" --version="$version" "${spot[@]}"; }

# If the image has Python 3.10, as that of v4 has, uv brings 3.11, without root, without apt, whose lock a new machine
# may hold for minutes, and without touching the system. It comes first, so that a failure is early. After a lost
# connection gcloud repeats the whole command.
install() {
  on_all_workers "set -e; test ! -e vdm_jax/.installed || exit 0; git init --quiet vdm_jax; cd vdm_jax
    python3 -m pip install --quiet --upgrade --target .uv uv
    .uv/bin/uv venv --quiet --allow-existing --python 3.11 .venv
    git fetch --quiet ${repository@Q} '+refs/heads/*:refs/remotes/origin/*'
    git checkout --quiet $commit
    .uv/bin/uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
    touch .installed" ||
    fail "slice $name exists and is billed, but the installation failed, see above: resume installs again, delete deletes it."
}

# Show the logs, or stop the run, and print how it ended.
watch() {
  local status=0
  trap 'echo "the run continues: follow shows it again, stop ends it." >&2; exit 130' INT
  on_all_workers "vdm_jax/launch/tpu_worker.sh $1" || status=$?
  [[ -z $dry_run ]] || return 0
  case $status in
    0) echo 'the run has ended.' >&2 ;;
    "$stopped") echo 'the run saved and stopped, with status 75: run resumes it.' >&2 ;;
    255) echo 'error: the connection was lost, the run continues: follow shows it again.' >&2 ;;
    *) echo "error: the run ended with status $status: see the messages above." >&2 ;;
  esac
  exit "$status"
}

train() {
  on_all_workers "vdm_jax/launch/tpu_worker.sh start ${arguments[*]@Q}"
  watch follow
}

resume() {
  local now
  if [[ -n $dry_run ]]; then
    echo '# Only if the slice is PREEMPTED, TERMINATED or STOPPED:'
    tpu delete --quiet
    echo '# Only then, or if there is no slice:'
    create
    echo '# If it is READY or was recreated; the first command does nothing if the library is installed:'
  else
    now=$(gcloud compute tpus tpu-vm list "${options[@]}" --format='value(name.basename(),state)' |
      awk -v name="$name" '$1 == name {print $2}')
    case $now in
      READY) ;;
      '' | PREEMPTED | TERMINATED | STOPPED)
        echo "slice $name is ${now:-missing}: recreating it." >&2
        [[ -z $now ]] || tpu delete --quiet
        create ;;
      *) fail "slice $name is $now: wait until it is READY, then run resume again." ;;
    esac
  fi
  install
  train
}

case $action in
  create) create; install ;;
  run) train ;;
  follow | stop) watch "$action" ;;
  resume) resume ;;
  delete) tpu delete --quiet ;;
esac
