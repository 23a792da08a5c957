#!/usr/bin/env bash
# On a machine with one GPU: the speed benchmarks, then all rows of the Multi30k table at the paper's size, side by side.
#   bash examples/multi30k_en_de/gpu.sh
# OUT          folder for results (results/gpu beside this script)
# WHEELS       folder of wheels to install first, for a machine without a network (none)
# STAGES       what to do, in this order (benchmarks train table)
# SEEDS        trainings of each row ("1 2 3")
# MAX_MINUTES  minutes for the trainings (7); called again, they go on from their checkpoints
# Needs prepared data in runs/multi30k/bpe3000 where there is no network: run ROW=linear run.sh elsewhere first and carry it.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

OUT=${OUT:-$ROOT/examples/multi30k_en_de/results/gpu}
WHEELS=${WHEELS:-}
STAGES=${STAGES:-benchmarks train table}
SEEDS=${SEEDS:-1 2 3}
export SIZE=${SIZE:-paper} MAX_MINUTES=${MAX_MINUTES:-7} RESULTS=$OUT
rows=(softmax linear momentum connection adaptive)

# An environment of the machine's own Python and the wheels, in the form that activate takes.
if [[ -n $WHEELS ]]; then
    export MOMENTUM_ENV=$ROOT/.venv-gpu PYTHONPATH=$ROOT/.venv-gpu/site
    mkdir -p "$MOMENTUM_ENV/bin"
    python3 -m pip install -q --no-index --no-deps --upgrade --target "$MOMENTUM_ENV/site" "$WHEELS"/*.whl
    ln -sf "$(command -v python3)" "$MOMENTUM_ENV/bin/python"
    for tool in "$MOMENTUM_ENV"/site/bin/*; do ln -sf "$tool" "$MOMENTUM_ENV/bin/"; done
fi
activate
mkdir -p "$OUT"

benchmarks() {
    local device=cuda
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || device=cpu
    python "$ROOT/scripts/benchmark_attention.py" --device "$device" --dtype bfloat16 --tokens 65536 --seconds 0.3 --out "$OUT" \
        >"$OUT/attention.txt"
    python "$ROOT/scripts/benchmark_decoding.py" --vocabulary 40000 --batches 1 64 512 --out "$OUT/decoding.json"
    python "$ROOT/scripts/benchmark_training.py" --sentences 128 --out "$OUT/training.json"
}

train() {
    local row seed workers=()
    for seed in $SEEDS; do
        for row in "${rows[@]}"; do
            ROW=$row SEED=$seed OMP_NUM_THREADS=1 bash "$ROOT/examples/multi30k_en_de/run.sh" \
                >"$OUT/$row-seed$seed.log" 2>&1 &
            workers+=($!)
        done
    done
    local failed=0
    for worker in "${workers[@]}"; do wait "$worker" || failed=$((failed + 1)); done
    [[ $failed == 0 ]] || say "train: $failed of ${#workers[@]} trainings failed; see $OUT/*.log"
}

table() {
    local results=()
    for row in "${rows[@]}"; do results+=("$OUT/$row"-seed*.json); done
    python "$ROOT/scripts/table.py" "${results[@]}" --plot "$OUT/bleu.png" | tee "$OUT/table.md"
    tar -C "$OUT" -czf "$OUT/results.tar.gz" --exclude results.tar.gz .
}

for stage in $STAGES; do
    case $stage in
        benchmarks | train | table) "$stage" ;;
        *) die "STAGES: no stage $stage; there are benchmarks, train and table" ;;
    esac
done
