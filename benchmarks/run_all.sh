#!/usr/bin/env bash
# Measures the parts of docs/performance.md and writes the page: some 25 minutes on 2 cores that do nothing else.
#   PEER=/path/to/python OFFICIAL=/path/to/CrossFormer benchmarks/run_all.sh [PART...]
# PEER has torch and timm (default: .venv-parity, made by `make parity`); without OFFICIAL, a checkout of the released
# CrossFormer code, its parts measure ours alone. ROUNDS (3), SECONDS_EACH (1.5) and PYTHON (.venv) can be set, too.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PEER=${PEER:-.venv-parity/bin/python}
parts=("$@")
if [ ${#parts[@]} = 0 ]; then parts=(infer-crossvit train-crossvit infer-crossformer train-crossformer growth); fi
against=()
if [ -n "${OFFICIAL:-}" ]; then against=(--against official --peer-repo "$OFFICIAL" --peer-python "$PEER"); fi
day=$(date +%F)

bench() {  # part, then the bench's own options
  "$PYTHON" -m crosscale bench "${@:2}" --rounds "${ROUNDS:-3}" --seconds "${SECONDS_EACH:-1.5}" \
    --output "benchmarks/results/$day-$1.json"
}

for part in "${parts[@]}"; do
  case $part in
    infer-crossvit)
      bench "$part" --mode infer --against timm --peer-python "$PEER" --batch-size 1 8 32 \
        --model crossvit_9_240 crossvit_15_240 crossvit_18_240 crossvit_9_dagger_240 ;;
    train-crossvit)
      bench "$part" --mode train --against timm --peer-python "$PEER" --batch-size 16 \
        --model crossvit_9_240 crossvit_15_240 ;;
    infer-crossformer)
      bench "$part" --mode infer "${against[@]}" --batch-size 1 8 \
        --model crossformer_tiny_224 crossformer_small_224 crossformer_base_224 ;;
    train-crossformer)
      bench "$part" --mode train "${against[@]}" --batch-size 8 --model crossformer_small_224 ;;
    growth) bench "$part" --mode growth ;;
    *) echo "no part '$part'" >&2; exit 2 ;;
  esac
done
"$PYTHON" -m benchmarks.performance_page
