#!/usr/bin/env bash
# A Cloud TPU slice from nothing to a trained run, and away again.
#
#   launch/tpu_pod.sh create --name=vdm --zone=us-central2-b --type=v4-256 [--spot] [--version=tpu-ubuntu2204-base]
#   launch/tpu_pod.sh run    --name=vdm --zone=us-central2-b --config=configs/t2v_large.py --workdir=/mnt/runs/t2v ...
#   launch/tpu_pod.sh follow --name=vdm --zone=us-central2-b
#   launch/tpu_pod.sh stop   --name=vdm --zone=us-central2-b
#   launch/tpu_pod.sh resume --name=vdm --zone=us-central2-b --type=v4-256 [--spot] --config=... --workdir=... ...
#   launch/tpu_pod.sh delete --name=vdm --zone=us-central2-b
#
# `create` makes the slice and installs this commit of REPOSITORY on every worker. `run` starts, on all workers, a
# preflight of half a minute and then training, which starts again after a crash as under multi_gpu.sh, and follows the
# logs (~/vdm_jax_run/log on each worker). Where the connection is lost the run goes on: `follow`, or the same `run`,
# shows it again, and ends with its status. `stop` makes it save and end, with status 75. `resume` is `run` after making
# the slice anew where it was preempted or stopped.
# --project=NAME and --dry_run, which prints the commands, go with each. The workdir must be the same folder on all
# workers: a mounted bucket or file store. REPOSITORY is the `origin` of this clone by default.
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

# Everything is checked before anything is called: slices cost money.
[[ $action =~ ^(create|run|follow|stop|resume|delete)$ ]] ||
  fail "${action:-no action} is not understood: choose create, run, follow, stop, resume or delete."
[[ -n $name ]] || fail '--name=NAME is missing: how the slice is called.'
[[ -n $zone ]] || fail '--zone=ZONE is missing: where the slice is, such as us-central2-b.'
if [[ $action == create || $action == resume ]]; then
  [[ -n $type ]] || fail '--type=TYPE is missing: the kind of slice, such as v4-256.'
  [[ -n $repository ]] || fail 'this clone has no remote called origin: set REPOSITORY to a URL that the workers can clone.'
  commit=$(git rev-parse HEAD)
fi
if [[ $action == run || $action == resume ]]; then
  [[ -n $workdir ]] || fail '--workdir=DIR is missing: name the folder of the run, the same on all workers.'
  [[ " ${arguments[*]} " == *' --config='* ]] || fail '--config=FILE is missing: name the experiment, such as configs/digits.py.'
elif [[ ${#arguments[@]} -gt 0 ]]; then
  fail "${arguments[0]} is not for $action: leave it out."
fi
options+=(--zone="$zone")

tpu() { call gcloud compute tpus tpu-vm "$1" "$name" "${options[@]}" "${@:2}"; }

everywhere() { tpu ssh --worker=all --command="$1"; }

make() { tpu create --accelerator-type="$type" --version="$version" "${spot[@]}"; }

# Where the image has Python 3.10, as that of v4 has, uv brings 3.11: without root, without apt, whose lock a new machine
# may hold for minutes, and without touching the system. It comes first: nothing long begins without it. After a lost
# connection gcloud does all of it again.
install() {
  everywhere "set -e; test ! -e vdm_jax/.installed || exit 0; git init --quiet vdm_jax; cd vdm_jax
    python3 -m pip install --quiet --upgrade --target .uv uv
    .uv/bin/uv venv --quiet --allow-existing --python 3.11 .venv
    git fetch --quiet ${repository@Q} '+refs/heads/*:refs/remotes/origin/*'
    git checkout --quiet $commit
    .uv/bin/uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
    touch .installed" ||
    fail "slice $name is there, and billed, but the installation failed, as said above: resume installs again, delete gives it back."
}

# Shows the logs, or stops the run, and tells how it ended.
watch() {
  local status=0
  trap 'echo "the view has ended, the run goes on: follow shows it again, stop ends it." >&2; exit 130' INT
  everywhere "vdm_jax/launch/tpu_worker.sh $1" || status=$?
  [[ -z $dry_run ]] || return 0
  case $status in
    0) echo 'the run has ended.' >&2 ;;
    "$stopped") echo 'the run has saved and stopped, with status 75: run goes on from there.' >&2 ;;
    255) echo 'error: the connection was lost, the run goes on: follow shows it again.' >&2 ;;
    *) echo "error: the run ended with status $status: read the messages above." >&2 ;;
  esac
  exit "$status"
}

train() {
  everywhere "vdm_jax/launch/tpu_worker.sh start ${arguments[*]@Q}"
  watch follow
}

resume() {
  local now
  if [[ -n $dry_run ]]; then
    echo '# Only where the slice is PREEMPTED, TERMINATED or STOPPED:'
    tpu delete --quiet
    echo '# Only then, or where there is no slice:'
    make
    echo '# Where it is READY, or was made anew; the first command does nothing where the library is installed:'
  else
    now=$(gcloud compute tpus tpu-vm list "${options[@]}" --format='value(name.basename(),state)' |
      awk -v name="$name" '$1 == name {print $2}')
    case $now in
      READY) ;;
      '' | PREEMPTED | TERMINATED | STOPPED)
        echo "slice $name is ${now:-not there}: making it anew." >&2
        [[ -z $now ]] || tpu delete --quiet
        make ;;
      *) fail "slice $name is $now: wait until it is READY, then resume again." ;;
    esac
  fi
  install
  train
}

case $action in
  create) make; install ;;
  run) train ;;
  follow | stop) watch "$action" ;;
  resume) resume ;;
  delete) tpu delete --quiet ;;
esac
