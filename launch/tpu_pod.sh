#!/usr/bin/env bash
# Trains on a Google Cloud TPU slice, on all of its hosts. See launch/tpu.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu_pod.sh --name=NAME --zone=ZONE [OPTIONS] -- ARGUMENTS OF stjax.train

  --name=NAME, --zone=ZONE   the TPU VM
  --project=P                default gcloud's
  --create=TYPE              first create it, e.g. v5litepod-16
  --runtime=VERSION          of the VM to create; default v2-alpha-tpuv5-lite
  --spot                     create it as a spot VM: preempted at any time, and resumed by the same command
  --folder=DIR               the checkout of stjax on every host; default stjax, in the home folder
  --install                  first install there: python3 -m venv, pip install -e '.[tpu,train]'
  --dry-run                  print what would run

example:
  launch/tpu_pod.sh --name=b0 --zone=us-west4-a --create=v5litepod-16 --spot --install -- \
      --config=configs/enet_b0_aux.py --workdir=/mnt/share/runs/b0 --config.data_dir=/mnt/share/data/her2st
TEXT
}

fail() {
  echo "error: $*" >&2
  exit 2
}

name="" zone="" create="" runtime=v2-alpha-tpuv5-lite folder=stjax install=no dry_run=no
project=() spot=()
while (($#)); do
  case "$1" in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=("$1") ;;
    --create=*) create=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --spot) spot=(--spot) ;;
    --folder=*) folder=${1#*=} ;;
    --install) install=yes ;;
    --dry-run) dry_run=yes ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "option '$1' is not understood; arguments of stjax.train come after --, see --help" ;;
  esac
  shift
done
[[ -n $name && -n $zone ]] || fail "--name and --zone are needed, see --help"
train=() # what is stjax.train's, "--workdir DIR" as "--workdir=DIR"
while (($#)); do
  if [[ $1 == --config || $1 == --workdir ]] && (($# > 1)); then train+=("$1=$2") && shift; else train+=("$1"); fi
  shift
done
set -- ${train[@]+"${train[@]}"}
[[ " $* " == *" --config="* ]] || fail "no config is given; add -- --config=configs/enet_b0_aux.py"
[[ " $* " == *" --workdir="* ]] || fail "no work directory is given; add --workdir=DIR on a file system all hosts share"

tell() { # prints a command, or runs it
  if [[ $dry_run == yes ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_all_hosts() {
  tell gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" "${project[@]}" --worker=all "--command=$1"
}

if [[ -n $create ]]; then
  tell gcloud compute tpus tpu-vm create "$name" "--zone=$zone" "${project[@]}" "--accelerator-type=$create" \
    "--version=$runtime" "${spot[@]}"
fi
inside=$(printf 'cd %q' "$folder")
if [[ $install == yes ]]; then
  on_all_hosts "$inside && python3 -m venv .venv && .venv/bin/python -m pip install -q -e '.[tpu,train]'"
fi
# jax.distributed asks the VM's metadata who the other hosts are.
on_all_hosts "$inside && STJAX_DISTRIBUTED=1 .venv/bin/python -m stjax.train$(printf ' %q' "$@")"
