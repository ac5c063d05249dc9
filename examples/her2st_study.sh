#!/usr/bin/env bash
# Four models beside the baselines on real tissue: EfficientNet-b0 with and without AuxNet, EfficientNet-Lite0 from its
# ImageNet weights, PixNet; trained on her2st's sections C2 to C4, scored on C5 under every protocol, in one report.
# One patient, 542 spots: what it shows is said in docs/evaluation.md. Half an hour or so on two CPU cores; stopped, it
# goes on where it was.
#
#   pip install -e '.[pretrained]'
#   examples/her2st_study.sh raw/her2st study
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 RAW_HER2ST OUT" >&2; exit 2; }
raw=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

$python -m data_prep.build --source "$raw" --out "$out/patches" --sections C2,C3,C4,C5
$python -m data_prep.build --source "$raw" --out "$out/tiles" --sections C2,C3,C4,C5 --tile-size-px 512 --context-px 58 \
  --target-um-per-px 1.4

train() {  # NAME CONFIG SETTING...
  $python -m stjax.train --config="configs/$2.py" --workdir="$out/$1" --config.test_sections=C5 \
    --config.optimizer=adamw --config.schedule=cosine "${@:3}"
  $python -m stjax.evaluate --workdir="$out/$1" --protocol=all
}
patches=(--config.data_dir="$out/patches" --config.num_epochs=12 --config.learning_rate=1e-3 --config.batch_size=32)
train b0_aux enet_b0_aux "${patches[@]}"
train b0 enet_b0_aux "${patches[@]}" --config.model.aux=False
train lite0_aux enet_lite0_pretrained "${patches[@]}"
train pixnet pixnet --config.data_dir="$out/tiles" --config.protocol=stjax --config.num_epochs=20 \
  --config.learning_rate=2e-3 --config.batch_size=2 --config.eval_batch_size=2 \
  --config.model.variant=efficientnet_tiny --config.model.options.width=32 --config.model.options.aggregation=mean

$python -m stjax.report --workdir="$out/b0_aux" --workdir="$out/b0" --workdir="$out/lite0_aux" --workdir="$out/pixnet" \
  --names="b0 + AuxNet,b0,Lite0 + AuxNet (ImageNet),PixNet" --out="$out/report.html"
