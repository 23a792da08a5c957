#!/usr/bin/env bash
# One row of Tables 2 and 3 of Nguyen et al. 2022: trains a model of images, scores it, draws samples and completions.
#   DATASET=mnist|cifar10 ROW=softmax|linear|momentum|connection|adaptive DATA=folder bash examples/image_generation/run.sh
#       [fairseq-train's flags]
# DATASET     (mnist)
# DATA        folder of MNIST's four idx files, or of CIFAR-10's Python or binary version, or of JPEG files (see data/cifar10.py)
# SIZE        paper: 8 layers (MNIST) or 16 (CIFAR-10), 8 heads × 32, RAdam 1e-4; small: 2 layers, 2 heads × 32, RAdam 1e-3, what
#             one core trains on MNIST in minutes; tiny, to try things out (small)
# RUNS        folder for checkpoints (runs/images in the repository)
# RESULTS     folder for <ROW>-seed<SEED>.json and .png (examples/image_generation/results/<DATASET>-<SIZE>)
# SEED        of initialisation and order of the data, alike for all rows (1)
# STAGES      what to do, in this order ("train score draw")
# MAX_UPDATE  updates (250000 paper, 600 small, 20 tiny)
# MAX_MINUTES training stops after so many minutes and the same command goes on (no limit)
# BATCH_SIZE  images an update (32 paper, 16 small, 2 tiny)
# VALIDATE_EVERY, SCORED_IMAGES   updates between validations; images that each takes (5000 and all 5000 held out; 100 and 100; 10
#             and 4)
# TEST_IMAGES images of the test set that are scored, drawn once and for all; 0: all (0 paper, 1000 small, 4 tiny)
# DEVICE      cpu, cuda, or auto: a GPU where torch sees one (auto)
# USER_DIR    see scripts/train.sh
# Momenta and step sizes as in Table 1. What is scored and drawn with is the checkpoint that is best on the held-out images. A
# finished training is left as it is, and so is a result newer than its checkpoints, with the same TEST_IMAGES.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

DATASET=${DATASET:-mnist}
ROW=${ROW:-}
SIZE=${SIZE:-small}
SEED=${SEED:-1}
RUNS=${RUNS:-$ROOT/runs/images}
RESULTS=${RESULTS:-$ROOT/examples/image_generation/results/$DATASET-$SIZE}
STAGES=${STAGES:-train score draw}
DEVICE=${DEVICE:-auto}
MAX_MINUTES=${MAX_MINUTES:-}

[[ $DATASET =~ ^(mnist|cifar10)$ ]] || die "DATASET=$DATASET: must be mnist or cifar10"
case $ROW in
    softmax | linear | momentum) row=(--attention "$ROW" --connection residual) ;;
    connection) row=(--attention momentum --connection momentum) ;;
    adaptive) row=(--attention momentum --connection adaptive) ;;
    *) die "ROW=$ROW: must be softmax, linear, momentum, connection or adaptive" ;;
esac
case $SIZE in
    tiny)
        MAX_UPDATE=${MAX_UPDATE:-20} BATCH_SIZE=${BATCH_SIZE:-2} VALIDATE_EVERY=${VALIDATE_EVERY:-10}
        SCORED_IMAGES=${SCORED_IMAGES:-4} TEST_IMAGES=${TEST_IMAGES:-4}
        size=(--layers 1 --embed-dim 16 --ffn-dim 32 --heads 2 --dropout 0 --lr 3e-3 --log-interval 5)
        ;;
    small)
        MAX_UPDATE=${MAX_UPDATE:-600} BATCH_SIZE=${BATCH_SIZE:-16} VALIDATE_EVERY=${VALIDATE_EVERY:-100}
        SCORED_IMAGES=${SCORED_IMAGES:-100} TEST_IMAGES=${TEST_IMAGES:-1000}
        size=(--layers 2 --embed-dim 64 --ffn-dim 256 --heads 2 --dropout 0 --lr 1e-3 --log-interval 20)
        ;;
    paper)
        MAX_UPDATE=${MAX_UPDATE:-250000} BATCH_SIZE=${BATCH_SIZE:-32} VALIDATE_EVERY=${VALIDATE_EVERY:-5000}
        SCORED_IMAGES=${SCORED_IMAGES:-0} TEST_IMAGES=${TEST_IMAGES:-0}
        size=(--lr 1e-4 --log-interval 100)
        ;;
    *) die "SIZE=$SIZE: must be paper, small or tiny" ;;
esac
for count in MAX_UPDATE BATCH_SIZE VALIDATE_EVERY SEED; do require_count "$count"; done
for count in SCORED_IMAGES TEST_IMAGES; do require_count "$count" 0; done
[[ $MAX_MINUTES =~ ^[0-9]*(\.[0-9]+)?$ ]] || die "MAX_MINUTES=$MAX_MINUTES: must be a number"
[[ $DEVICE =~ ^(cpu|cuda|auto)$ ]] || die "DEVICE=$DEVICE: must be cpu, cuda or auto"
[[ -d ${DATA:-} ]] || die "DATA=${DATA:-}: must name the folder of the $DATASET images"
activate
if [[ $DEVICE == auto ]]; then
    DEVICE=$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
fi
device=(--num-workers 2) here=()
[[ $DEVICE == cuda ]] || { device=(--cpu --num-workers 0) here=(--cpu); }

name=$ROW-seed$SEED
model=$RUNS/$DATASET-$SIZE/$name
best=$model/checkpoint_best.pt  # of the held-out images
result=$RESULTS/$name.json
picture=$RESULTS/$name.png

train() {
    keep_settings "$model" "BATCH_SIZE=$BATCH_SIZE" "$@"
    if is_trained "$model"; then
        say "images: $model is trained, nothing to do"
        return
    fi
    claim_training "$model"
    note_revision "$model"
    local limit=()
    if [[ -n $MAX_MINUTES ]]; then
        # fairseq counts the hours of all runs that a training consists of.
        limit=(--stop-time-hours "$(python "$ROOT/scripts/hours_trained.py" "$model" --and-minutes "$MAX_MINUTES")")
    fi
    PYTHONWARNINGS=ignore::UserWarning,ignore::FutureWarning fairseq-train "$DATA" --user-dir "$USER_DIR" \
        --task image_generation --images "$DATASET" --scored-images "$SCORED_IMAGES" --arch "momentum_lm_$DATASET" \
        "${row[@]}" "${size[@]}" "${device[@]}" --seed "$SEED" --criterion logistic_mixture_loss --optimizer radam \
        --batch-size "$BATCH_SIZE" --max-update "$MAX_UPDATE" --validate-interval-updates "$VALIDATE_EVERY" \
        --save-interval-updates "$VALIDATE_EVERY" --keep-interval-updates 1 --no-epoch-checkpoints --save-dir "$model" \
        --log-format json --no-progress-bar --log-file "$model/train.log" "${limit[@]}" "$@"
}

score() {
    [[ -f $best ]] || die "no $best; train first"
    local settings="TEST_IMAGES=$TEST_IMAGES"
    if is_scored "$model" "$result" "$settings" "$best"; then
        say "images: $result stands, nothing to do"
        return
    fi
    score_by "$model" "$result" "$settings" env PYTHONWARNINGS=ignore python "$ROOT/scripts/score_images.py" "$best" "$DATA" \
        --images "$TEST_IMAGES" --name "$ROW" --out "$result" "${PLUGIN[@]}" "${here[@]}"
}

draw() {
    [[ -f $best ]] || die "no $best; train first"
    if [[ $picture -nt $best ]]; then
        say "images: $picture stands, nothing to do"
        return
    fi
    PYTHONWARNINGS=ignore python "$ROOT/scripts/generate_images.py" "$best" --data "$DATA" --seed "$SEED" \
        --out "$picture" "${PLUGIN[@]}" "${here[@]}"
}

for stage in $STAGES; do
    case $stage in
        train) train "$@" ;;
        score | draw) "$stage" ;;
        *) die "STAGES: no stage $stage; there are train, score and draw" ;;
    esac
done
