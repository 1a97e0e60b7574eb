#!/bin/sh
# All results of docs/performance.md, and the page. On two quiet cores about 40 minutes (FULL=1: more than an hour).
#
#   PEER_PYTHON=/path/to/python PEER_REPO=/path/to/CrossFormer sh benchmarks/run_all.sh [PART...]
#
# PART: infer (10 min), official (6), train (5), segment (8), growth (3), start-up (2), page (seconds), which are the
# default, and detection (1). PEER_PYTHON has torch and timm, of detection torch and torchvision. PEER_REPO is a checkout
# of the released CrossFormer code with models/crossformer_backbone.py of its branch `crossformer` beside the files of
# main; without it official, and what train and segment measure against it, are left out. torch.compile takes most of
# the time: without FULL=1 it runs at batch 8, for crossvit_9's training step and for the segmentation's inference, and
# the other cases compare with eager.
set -e
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PEER_PYTHON=${PEER_PYTHON:-$PYTHON}
DAY=$(date +%F)
OUT=benchmarks/results
mkdir -p "$OUT"
if [ -n "$FULL" ]; then ROUNDS=3 SECONDS_EACH=2; else ROUNDS=2 SECONDS_EACH=1; fi
VITS="crossvit_9_240 crossvit_15_240 crossvit_18_240 crossvit_9_dagger_240"
SEGMENT=semantic_fpn_crossformer_tiny
FORMERS="crossformer_tiny_224 crossformer_small_224 crossformer_base_224"

bench() {  # NAME, then options of `crosscale bench`
    name=$1
    shift
    echo "== $name"
    "$PYTHON" -m crosscale bench --output "$OUT/$DAY-$name.json" "$@"
}
compare() {  # NAME PEER VARIANTS, then options
    name=$1 peer=$2 variants=$3
    shift 3
    [ "$peer" = timm ] || set -- --peer-repo "$PEER_REPO" "$@"
    bench "$name" --against "$peer" $engines --variant $variants --peer-python "$PEER_PYTHON" \
        --rounds "$ROUNDS" --seconds "$SECONDS_EACH" "$@"
}
engines=  # beside the peer
both() {  # variants of the cases that are compiled only with FULL=1
    if [ -n "$FULL" ]; then echo "eager compiled"; else echo "eager"; fi
}
official() {
    [ -n "$PEER_REPO" ] && return 0
    echo "== without PEER_REPO: no comparison with the released CrossFormer code"
    return 1
}

for part in ${*:-infer official train segment growth start-up page}; do
    case $part in
    infer)
        engines="onnxruntime openvino"
        compare infer-timm-batch-1 timm "$(both)" --mode infer --batch-size 1 --model $VITS
        compare infer-timm-batch-32 timm "$(both)" --mode infer --batch-size 32 --model $VITS
        compare infer-timm-batch-8 timm "eager compiled" --mode infer --batch-size 8 --model $VITS
        engines=
        ;;
    official)
        official || continue
        compare infer-official-batch-1 official "$(both)" --mode infer --batch-size 1 --model $FORMERS
        compare infer-official-batch-8 official "eager compiled" --mode infer --batch-size 8 --model $FORMERS
        ;;
    train)
        compare train-timm-9 timm "eager compiled" --mode train --batch-size 16 --model crossvit_9_240
        compare train-timm-15 timm "$(both)" --mode train --batch-size 16 --model crossvit_15_240
        official || continue
        compare train-official official "$(both)" --mode train --batch-size 16 --model crossformer_small_224
        ;;
    segment)
        "$PYTHON" -m benchmarks.segmentation_costs
        official || continue
        compare infer-official-segment official "eager compiled" --mode infer --batch-size 1 --model $SEGMENT
        compare train-official-segment official "$(both)" --mode train --batch-size 2 --model $SEGMENT
        ;;
    growth) bench growth --mode growth --rounds 1 --seconds "$SECONDS_EACH" ;;
    start-up) bench start-up --mode start-up --rounds 2 ;;
    detection) "$PYTHON" -m benchmarks.detection_ops "$PEER_PYTHON" --output "$OUT/$DAY-detection-ops.json" ;;
    page) "$PYTHON" -m benchmarks.performance_page ;;
    *) echo "no part '$part'" >&2; exit 2 ;;
    esac
done
