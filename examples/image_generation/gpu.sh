#!/usr/bin/env bash
# On a machine with one GPU: images/s and memory of every row, then the five rows of Table 2 (MNIST) side by side at the paper's size
# for as long as fits, scored and drawn from. Called again, it goes on; it says so when all is done.
#   DATA=folder bash examples/image_generation/gpu.sh
# In calls of ten minutes, the wheels and the images (MNIST 11 MB, in an ignored folder of the repository) carried:
#   WHEELS=.whl MOMENTUM_REVISION=… DATA=.mnist bash examples/image_generation/gpu.sh
# DATA         folder of the images
# DATASET      mnist or cifar10 (mnist)
# OUT          folder for what is brought back, 3 files (results/gpu-<DATASET> beside this script)
# STAGES       what to do, in this order ("speed train score draw table")
# SEEDS        trainings of each row ("1")
# RUNS         folder for checkpoints and JSON (runs/images in the repository)
# SIZE         paper; tiny, to try things out (paper)
# MAX_UPDATE   updates of each row, all alike (3000 paper, 20 tiny); the paper trained far longer. MAX_MINUTES a call for them (until
#              three minutes before its end); what they have reached by then is scored
# VALIDATE_EVERY, SCORED_IMAGES   see run.sh (250 and 250; tiny: its own)
# WHEELS, CALL_MINUTES, SIDE_BY_SIDE   see scripts/gpu_session.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
source "$ROOT/scripts/gpu_session.sh"

export DATASET=${DATASET:-mnist} SIZE=${SIZE:-paper} RUNS=${RUNS:-$ROOT/runs/images}
OUT=${OUT:-$ROOT/examples/image_generation/results/gpu-$DATASET}
STAGES=${STAGES:-speed train score draw table}
SEEDS=${SEEDS:-1}
case $SIZE in
    paper) export MAX_UPDATE=${MAX_UPDATE:-3000} VALIDATE_EVERY=${VALIDATE_EVERY:-250} SCORED_IMAGES=${SCORED_IMAGES:-250} ;;
    tiny) export MAX_UPDATE=${MAX_UPDATE:-20} ;;
    *) die "SIZE=$SIZE: must be paper or tiny" ;;
esac
[[ -d ${DATA:-} ]] || die "DATA=${DATA:-}: must name the folder of the $DATASET images"
DATA=$(realpath "$DATA")
export DATA
rows=(softmax linear momentum connection adaptive)
results=$RUNS/gpu-$DATASET-$SIZE
RUN=$ROOT/examples/image_generation/run.sh
start_session
mkdir -p "$OUT" "$results"
OUT=$(realpath "$OUT")
read -ra seeds <<<"$SEEDS"
trainings=()
for seed in "${seeds[@]}"; do
    for row in "${rows[@]}"; do trainings+=("$row $seed"); done
done

speed() {
    local sizes=(--batches 64 --places 8 --values 24) images failed=0
    [[ $SIZE != tiny ]] || sizes=(--batches 2 --places 2 --values 2 --layers 1 --embed-dim 16 --ffn-dim 16 --heads 2)
    for images in mnist cifar10; do
        [[ -f $results/speed-$images.json ]] || before_deadline python "$ROOT/scripts/generate_images.py" --benchmark "$images" \
            "${sizes[@]}" --out "$results/speed-$images.json" | tee "$results/speed-$images.txt" || failed=1
    done
    return "$failed"
}

# one_stage STAGE ROW SEED: one stage of run.sh for one training.
one_stage() { ROW=$2 SEED=$3 STAGES=$1 RESULTS=$results OMP_NUM_THREADS=1 before_deadline bash "$RUN"; }

train_row() {
    local minutes
    minutes=$(minutes_to_train)
    MAX_MINUTES=$minutes one_stage train "$@"
}
score_row() { one_stage score "$@"; }
draw_row() { one_stage draw "$@"; }

# of_trained LOGS FUNCTION: side by side, for each training that has a checkpoint.
of_trained() {
    local job words list=()
    for job in "${trainings[@]}"; do
        read -ra words <<<"$job"
        [[ ! -f $RUNS/$DATASET-$SIZE/${words[0]}-seed${words[1]}/checkpoint_best.pt ]] || list+=("$job")
    done
    side_by_side "$1" "$2" 60 "${list[@]}"
}

train() { side_by_side "$results/logs/train" train_row 210 "${trainings[@]}"; }
score() { of_trained "$results/logs/score" score_row; }
draw() { of_trained "$results/logs/draw" draw_row; }

table() {
    local files
    mapfile -t files < <(results_of "$results" "${rows[@]}")
    if ((${#files[@]})); then
        if python "$ROOT/scripts/plot_images.py" "$results"; then
            cp "$results/table.md" "$results/bits_per_dim.png" "$OUT"
        else
            say "table: failed; the JSON files are brought back all the same"
        fi
    fi
    pack "$OUT/results.tar.gz" "$results"
    say "gpu: ${#files[@]} of ${#trainings[@]} results in $OUT; $(seconds_left) seconds left"
}

run_stages speed train score draw table
