#!/usr/bin/env bash
# Submits a training to Slurm: one node or many, or an array with a job a fold. See launch/slurm.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/slurm.sh [OPTIONS] -- ARGUMENTS OF stjax.train

  --nodes=N           nodes of the job; default 1
  --gpus-per-node=G   GPUs a node, one process each; 0 trains on CPUs with one process a node; default 1
  --folds=LIST        an array with a job a fold, e.g. 0-4 or 0,2: fold f trains in <workdir>/fold_f
  --cpus-per-task=C   CPU cores a process, for decoding; default 8
  --time=T            limit; default 24:00:00. Two minutes before it the run saves, ends, and is requeued
  --partition=P       default the cluster's
  --account=A         default the user's
  --python=FILE       default .venv/bin/python
  --sbatch=OPTION     any further option of sbatch; may be given several times
  --dry-run           print what would run

examples:
  launch/slurm.sh --nodes=2 --gpus-per-node=8 -- --config=configs/enet_b0_aux.py --workdir=runs/b0
  launch/slurm.sh --folds=0-4 -- --config=configs/enet_b0_aux.py --workdir=runs/b0_folds
TEXT
}

fail() {
  echo "error: $*" >&2
  exit 2
}

nodes=1 gpus=1 folds="" cpus=8 limit=24:00:00 python=.venv/bin/python dry_run=no
extra=()
while (($#)); do
  case "$1" in
    --nodes=*) nodes=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --folds=*) folds=${1#*=} ;;
    --cpus-per-task=*) cpus=${1#*=} ;;
    --time=*) limit=${1#*=} ;;
    --partition=* | --account=*) extra+=("$1") ;;
    --python=*) python=${1#*=} ;;
    --sbatch=*) extra+=("${1#*=}") ;;
    --dry-run) dry_run=yes ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "option '$1' is not understood; arguments of stjax.train come after --, see --help" ;;
  esac
  shift
done
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes is '$nodes', expected a positive number"
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus-per-node is '$gpus', expected a number"
[[ -z $folds || $folds =~ ^[0-9,-]+$ ]] || fail "--folds is '$folds', expected a list such as 0-4 or 0,2"
train=() # what is stjax.train's, "--workdir DIR" as "--workdir=DIR"
while (($#)); do
  if [[ $1 == --config || $1 == --workdir ]] && (($# > 1)); then train+=("$1=$2") && shift; else train+=("$1"); fi
  shift
done
set -- ${train[@]+"${train[@]}"}
[[ " $* " == *" --config="* ]] || fail "no config is given; add -- --config=configs/enet_b0_aux.py"
[[ " $* " == *" --workdir="* ]] || fail "no work directory is given; add --workdir=DIR on a file system all nodes share"

submit=(sbatch --job-name=stjax "--nodes=$nodes" "--cpus-per-task=$cpus" "--time=$limit" --requeue --open-mode=append
  --signal=B:TERM@120 "--export=ALL,STJAX_PYTHON=$python")
if ((gpus > 0)); then
  submit+=("--ntasks-per-node=$gpus" "--gpus-per-node=$gpus") # a process a GPU: what JAX's Slurm detection expects
else
  submit+=(--ntasks-per-node=1)
fi
if [[ -n $folds ]]; then submit+=("--array=$folds"); fi
submit+=("${extra[@]}" "$(dirname "$0")/slurm_job.sh" "$@")

if [[ $dry_run == yes ]]; then
  printf '%q ' "${submit[@]}"
  echo
else
  "${submit[@]}"
fi
