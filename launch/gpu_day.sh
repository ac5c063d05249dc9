#!/usr/bin/env bash
# Installs stjax on a machine with a CUDA GPU, checks its numbers and measures its speed. See launch/gpu_day.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/gpu_day.sh [OPTIONS] [-- OPTIONS OF stjax bench]

  --out=DIR      folder of the results, gpu_day.json and gpu_day.md, and of the environment; default gpu_day
  --cuda=N       which jax[cudaN] to install, 12 or 13 (driver 580 or newer); default 12
  --torch        install PyTorch too, and time it and torch.compile beside stjax
  --python=FILE  an interpreter that has stjax already; without it an environment is made in DIR/venv
  --dry          every part at tiny sizes on the CPU, in a minute; with --python nothing is installed
  --dry-run      print what would run

examples:
  launch/gpu_day.sh
  launch/gpu_day.sh --torch -- --batch-size=64
  launch/gpu_day.sh --dry --python=.venv/bin/python
TEXT
}

fail() {
  echo "error: $*" >&2
  exit 2
}

run() { if [[ $dry_run == yes ]]; then echo "$*"; else "$@"; fi; }

out=gpu_day cuda=12 torch=no python="" dry=no dry_run=no
while (($#)); do
  case "$1" in
    --out=*) out=${1#*=} ;;
    --cuda=12 | --cuda=13) cuda=${1#*=} ;;
    --torch) torch=yes ;;
    --python=*) python=${1#*=} ;;
    --dry) dry=yes ;;
    --dry-run) dry_run=yes ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "option '$1' is not understood; options of stjax bench come after --, see --help" ;;
  esac
  shift
done
root=$(cd "$(dirname "$0")/.." && pwd)
[[ $dry == yes || $dry_run == yes ]] || nvidia-smi >/dev/null 2>&1 || fail "no NVIDIA driver answers here (nvidia-smi); --dry tries everything on a CPU"

if [[ -z $python ]]; then
  python=$out/venv/bin/python
  extras="jax[cuda$cuda]"
  if [[ $dry == yes ]]; then extras=jax; fi
  run python3 -m venv "$out/venv"
  run "$python" -m pip install -q "${root}[train]" "$extras"
  if [[ $torch == yes ]]; then run "$python" -m pip install -q torch torchvision; fi
fi

given=" $* "
usually() { # an option, unless it is given
  [[ $given == *" ${1%%=*}="* || $given == *" ${1%%=*} "* ]] || options+=("$1")
}
options=(--what=gpu_day "--json=$out/gpu_day.json" "--page=$out/gpu_day.md")
if [[ $dry == yes ]]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true" # compiles faster
  options+=(--tiny)
  usually --models=resnet18
  usually --image-size-px=32
  usually --batch-size=1
  usually --rounds=1
else
  export JAX_PLATFORMS=cuda,cpu # a GPU that JAX cannot use is an error, not a slow day on the CPU
  usually --models=efficientnet_b0,resnet101,vit_b16,vit_l16
  usually --dtype=bfloat16
  usually --batch-size=128
  usually --rounds=7
fi
if [[ $torch == yes ]]; then usually --torch-compile; fi
run "$python" -m stjax.bench "${options[@]}" "$@"
