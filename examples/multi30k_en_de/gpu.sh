#!/usr/bin/env bash
# On a machine with one GPU: the speed benchmarks, then all rows of the Multi30k table, raw, at the paper's size, side by side.
# Called again, it goes on; it says so when all is done.
#   bash examples/multi30k_en_de/gpu.sh
# In calls of ten minutes, the wheels and runs/multi30k/bpe3000 (13 MB) carried; 20,000 updates don't fit into half an hour:
#   WHEELS=.whl MOMENTUM_REVISION=… MAX_UPDATE=2000 WARMUP=500 VALIDATE_EVERY=500 bash examples/multi30k_en_de/gpu.sh
# OUT          folder for what is brought back (results/gpu beside this script)
# STAGES       what to do, in this order ("benchmarks train scores table")
# SEEDS        trainings of each row ("1 2 3")
# RUNS         folder for data, checkpoints and JSON (runs/multi30k in the repository); its bpe3000 must stand, carried from
#              elsewhere, where there is no network: run.sh makes it
# SIZE         paper; tiny, to try things out (paper)
# MAX_UPDATE   see run.sh; MAX_MINUTES a call for the trainings (until three minutes before its end)
# WHEELS, CALL_MINUTES, SIDE_BY_SIDE   see scripts/gpu_session.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
source "$ROOT/scripts/gpu_session.sh"

OUT=${OUT:-$ROOT/examples/multi30k_en_de/results/gpu}
STAGES=${STAGES:-benchmarks train scores table}
SEEDS=${SEEDS:-1 2 3}
export SIZE=${SIZE:-paper} RUNS=${RUNS:-$ROOT/runs/multi30k}
rows=(softmax linear momentum connection adaptive)
results=$RUNS/gpu-$SIZE
RUN=$ROOT/examples/multi30k_en_de/run.sh
start_session
mkdir -p "$OUT" "$results"
OUT=$(realpath "$OUT")
read -ra seeds <<<"$SEEDS"
trainings=()
for seed in "${seeds[@]}"; do
    for row in "${rows[@]}"; do trainings+=("$row $seed"); done
done

benchmarks() {
    local device=cuda attention=(--device cuda --dtype bfloat16 --tokens 65536 --seconds 0.3) model=() training=(--sentences 128)
    local decoding=(--vocabulary 40000 --batches 1 64 512)
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || device=cpu
    if [[ $SIZE == tiny ]]; then
        model=(--embed-dim 8 --ffn-dim 8 --layers 1 --vocabulary 50 --words 3 5 --runs 1)
        attention=(--quick --device "$device") training=("${model[@]}" --sentences 4)
        decoding=("${model[@]}" --batches 1 --steps 2)
    fi
    # Each for itself: one that fails leaves the others.
    local failed=0
    # By torch's operations; by Triton's kernels last.
    [[ -f $results/attention.json ]] || MOMENTUM_FAIRSEQ_KERNEL=torch before_deadline \
        python "$ROOT/scripts/benchmark_attention.py" "${attention[@]}" --out "$results" >"$results/attention.txt" || failed=1
    [[ -f $results/decoding.json ]] || before_deadline python "$ROOT/scripts/benchmark_decoding.py" "${decoding[@]}" \
        --out "$results/decoding.json" || failed=1
    [[ -f $results/training.json ]] || before_deadline python "$ROOT/scripts/benchmark_training.py" "${training[@]}" \
        --out "$results/training.json" || failed=1
    if [[ $device == cuda && ! -f $results/kernels/attention.json ]]; then
        mkdir -p "$results/kernels"
        before_deadline python "$ROOT/scripts/benchmark_attention.py" "${attention[@]}" --out "$results/kernels" \
            >"$results/kernels/attention.txt" || failed=1
    fi
    return "$failed"
}

train_row() {
    local minutes
    minutes=$(minutes_to_train)
    ROW=$1 SEED=$2 STAGES=train MAX_MINUTES=$minutes OMP_NUM_THREADS=1 before_deadline bash "$RUN"
}

score_row() {
    ROW=$1 SEED=$2 RESULTS=$results/rows STAGES=evaluate SPEED_RUNS=0 OMP_NUM_THREADS=1 before_deadline bash "$RUN"
}

train() { side_by_side "$results/logs/train" train_row 210 "${trainings[@]}"; }

scores() {
    local job words list=()
    for job in "${trainings[@]}"; do
        read -ra words <<<"$job"
        [[ ! -f $RUNS/$SIZE-${words[0]}-seed${words[1]}/checkpoint_best.pt ]] || list+=("$job")
    done
    side_by_side "$results/logs/scores" score_row 60 "${list[@]}"
}

table() {
    local files
    mapfile -t files < <(results_of "$results/rows" "${rows[@]}")
    if ((${#files[@]})); then
        python "$ROOT/scripts/table.py" "${files[@]}" --plot "$OUT/bleu.png" | tee "$OUT/table.md" ||
            say "table: failed; the JSON files are brought back all the same"
    fi
    pack "$OUT/results.tar.gz" "$results"
    say "gpu: ${#files[@]} of ${#trainings[@]} results in $OUT; $(seconds_left) seconds left"
}

run_stages benchmarks train scores table
