#!/bin/sh
# What this package does on one accelerator, in parts that each have their own time limit and write their results at once.
#
#   sh benchmarks/accelerator.sh [--smoke] [--out DIR] [--parts PART,PART,...] [--limit SECONDS] [--pack FILE]
#
# A PART is NAME[:MODEL+MODEL+...][@SECONDS]; NAME is one of
#   forms      every form of attention against float32: differences only
#   train      training steps of this package's models, batch 256, bfloat16: bare, and with a recipe's mixing
#   variants   each kernel's forms in the whole training step, one exchanged at a time
#   peer       timm's training steps, eager and compiled       peer-infer  timm's forwards
#   infer      forwards of this package's models, batch 256, 1 and 8
#   attention  differences and times of attention alone
#   parity     pytest -m gpu tests/gpu
#   profile    shares and the dearest kernels of a training step
# --limit is for all parts together (default 480). --pack keeps FILE, a tar.gz of DIR, up to date after every part.
# --smoke runs all of it on a processor at toy size. PYTHON and PEER_PYTHON (torch, timm) are the interpreters.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
PEER_PYTHON=${PEER_PYTHON:-$PYTHON}
OUT=benchmarks/results/accelerator LIMIT="" SMOKE="" PACK="" PARTS=""
while [ $# -gt 0 ]; do
    case $1 in
    --smoke) SMOKE=--smoke ;;
    --out) OUT=$2 && shift ;;
    --parts) PARTS=$2 && shift ;;
    --limit) LIMIT=$2 && shift ;;
    --pack) PACK=$2 && shift ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
    shift
done
if [ -n "$SMOKE" ]; then
    : "${LIMIT:=1200}"
    : "${PARTS:=train@300,variants:crossvit_9_240@300,peer@300,infer@300,attention@300,parity@600,profile:crossvit_9_240@300}"
else
    : "${LIMIT:=480}"
    : "${PARTS:=forms@60,train:crossvit_9_240@100,variants:crossvit_9_240@150,peer:crossvit_9_240@90,train@180,peer@180,\
variants@240,infer@120,peer-infer@120,attention@90,parity@120,profile@90}"
fi

mkdir -p "$OUT"
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${TMPDIR:-/tmp}/crosscale-accelerator-cache-$(id -u)}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 XLA_PYTHON_CLIENT_MEM_FRACTION=0.9
if [ -n "$SMOKE" ]; then
    # Compiles sooner; the speed means nothing here.
    export JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1
else
    export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}"  # the processor is parity's reference
fi

tell_missing() {  # INTERPRETER, then modules: says in one line which of them it lacks
    python=$1 && shift
    lacking=$("$python" -c 'import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if not u.find_spec(n)])' "$@")
    [ -z "$lacking" ] || echo "missing in $python: $lacking"
}
tell_missing "$PYTHON" jax flax optax numpy yaml safetensors filelock rich msgpack pytest pytest_timeout
tell_missing "$PEER_PYTHON" torch timm

BEGAN=$(date +%s)
FAILED=""
for part in $(echo "$PARTS" | tr ", " "  "); do
    seconds=${part##*@}
    [ "$seconds" != "$part" ] || seconds=120
    head=${part%@*}
    name=${head%%:*} models=${head#*:}
    [ "$models" != "$head" ] || models=""
    left=$((LIMIT - ($(date +%s) - BEGAN)))
    [ "$left" -ge "$seconds" ] || seconds=$left
    if [ "$seconds" -lt 10 ]; then
        echo "== $head: no time left" && FAILED="$FAILED $head"
        continue
    fi
    file=$OUT/$(echo "$head" | tr ':+' '--')
    interpreter=$PYTHON
    case $name in
    forms) set -- attention --timing 0 ;;
    train | infer) set -- speed --mode "$name" ;;
    peer) set -- peer --mode train && interpreter=$PEER_PYTHON ;;
    peer-infer) set -- peer --mode infer && interpreter=$PEER_PYTHON ;;
    variants | attention) set -- "$name" ;;
    profile) set -- profiling ;;
    parity) set -- ;;
    *) echo "== $name: no such part" && FAILED="$FAILED $name" && continue ;;
    esac
    echo "== $head, at most $seconds s ($(($(date +%s) - BEGAN)) s so far)"
    if [ "$name" = parity ]; then
        set -- "$PYTHON" -m pytest -m gpu tests/gpu -q -p no:cacheprovider --junitxml="$file.xml"
    else
        module=$1 && shift
        set -- "$interpreter" -m "benchmarks.accelerator.$module" "$@" --out "$file.json" --limit $((seconds - 3)) \
            $SMOKE ${models:+--models "$models"}
    fi
    # The log keeps all of it, the terminal too. `timeout` is the part's last word where it does not end by itself.
    { timeout -k 3 "$seconds" "$@" 2>&1; echo $? >"$file.status"; } | tee "$file.log"
    [ "$(cat "$file.status")" = 0 ] || FAILED="$FAILED $head"
    [ -z "$PACK" ] || tar -czf "$PACK" -C "$OUT" .
done
echo "== $(($(date +%s) - BEGAN)) s, results in $OUT"
[ -z "$FAILED" ] || { echo "did not end well:$FAILED" && exit 1; }
