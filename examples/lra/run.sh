#!/usr/bin/env bash
# One cell of Table 4 (Long Range Arena) of Nguyen et al. 2022, from data to RESULTS/<TASK>/<ROW_NAME>-seed<SEED>.json.
#   TASK=listops ATTENTION=momentum bash examples/lra/run.sh [fairseq-train's flags]
# TASK            listops, text, retrieval, image or pathfinder
# ATTENTION       adaptive (momentum attention in an adaptive connection), or a kind that --attention has: softmax, linear, …
# ROW_NAME        the row's name, where flags make another row of the same attention (ATTENTION)
# SIZE            paper: the protocol of Xiong et al. 2021; small: what two cores can train, the same model; tiny, to try things
#                 out (paper)
# SEED            of initialisation, batches and dropout (1)
# DATA            text, retrieval, image: folder of the published files, see scripts/prepare_lra.sh; not needed where PREPARED stands
# PREPARED        folder that prepare_lra.sh makes (RUNS/<TASK>)
# RUNS, RESULTS   folders for data and checkpoints, and for JSON (runs/lra in the repository, examples/lra/results/<SIZE>)
# MAX_UPDATE, BATCH, LR, WARMUP   AdamW; the learning rate rises to LR over WARMUP updates and falls to 0 at MAX_UPDATE, linearly
# MAX_POSITIONS   longer sequences are cut, and counted (text, retrieval: 4000; small text: 512; the others aren't cut)
# VALIDATE_EVERY  updates between validations on the whole dev set (a twentieth of MAX_UPDATE; small: a half)
# MAX_MINUTES     training stops after so many minutes and the same command goes on (no limit)
# STAGES          what to do (train score)
# PRECISION       fp32, fp16, bf16 or amp (fp32); all but fp32 need a GPU
# DEVICE          cpu, cuda, or auto: a GPU where torch sees one (auto)
# USER_DIR        see scripts/train.sh
# torch's OneCycleLR, which the code of Xiong et al. uses, starts at LR/25 and moves Adam's first beta, too; this schedule doesn't.
# Momenta and step sizes as in Nguyen et al. 2022, Table 1. The checkpoint of the best dev accuracy is scored on the test set,
# once. A finished training is left as it is, and so is a result newer than its checkpoints that was scored on the same data.
# scripts/lra_table.py makes the table.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

TASK=${TASK:-}
ATTENTION=${ATTENTION:-}
ROW_NAME=${ROW_NAME:-$ATTENTION}
SIZE=${SIZE:-paper}
SEED=${SEED:-1}
RUNS=${RUNS:-$ROOT/runs/lra}
RESULTS=${RESULTS:-$ROOT/examples/lra/results/$SIZE}
DATA=${DATA:-}
PREPARED=${PREPARED:-$RUNS/$TASK}
STAGES=${STAGES:-train score}
PRECISION=${PRECISION:-fp32}
DEVICE=${DEVICE:-auto}
MAX_MINUTES=${MAX_MINUTES:-}

# The protocol: batch, updates, warm-up.
case $TASK in
    listops) full=(32 5000 1000) ;;
    text) full=(32 20000 8000) ;;
    retrieval) full=(32 30000 800) ;;
    image) full=(256 35000 175) ;;
    pathfinder) full=(256 62400 312) ;;
    *) die "TASK=$TASK: must be listops, text, retrieval, image or pathfinder" ;;
esac
flags=()
case $SIZE in
    tiny)
        BATCH=${BATCH:-8} MAX_UPDATE=${MAX_UPDATE:-20} WARMUP=${WARMUP:-2} LR=${LR:-1e-2} MAX_POSITIONS=${MAX_POSITIONS:-64}
        flags+=(--layers 1 --embed-dim 16 --ffn-dim 16 --classifier-dim 16)
        ;;
    small)
        [[ $TASK != text ]] || BATCH=${BATCH:-32} MAX_POSITIONS=${MAX_POSITIONS:-512}
        BATCH=${BATCH:-16} MAX_UPDATE=${MAX_UPDATE:-300} WARMUP=${WARMUP:-30} LR=${LR:-1e-3}
        VALIDATE_EVERY=${VALIDATE_EVERY:-$((MAX_UPDATE < 2 ? 1 : MAX_UPDATE / 2))}
        ;;
    paper) BATCH=${BATCH:-${full[0]}} MAX_UPDATE=${MAX_UPDATE:-${full[1]}} WARMUP=${WARMUP:-${full[2]}} LR=${LR:-1e-4} ;;
    *) die "SIZE=$SIZE: must be paper, small or tiny" ;;
esac
for count in SEED BATCH MAX_UPDATE; do require_count "$count"; done
require_count WARMUP 0
VALIDATE_EVERY=${VALIDATE_EVERY:-$((MAX_UPDATE < 20 ? 1 : MAX_UPDATE / 20))}
require_count VALIDATE_EVERY
[[ $TASK != text && $TASK != retrieval ]] || MAX_POSITIONS=${MAX_POSITIONS:-4000}
[[ -z ${MAX_POSITIONS:-} ]] || { require_count MAX_POSITIONS && flags+=(--max-positions "$MAX_POSITIONS" --truncate); }
[[ $MAX_MINUTES =~ ^[0-9]*(\.[0-9]+)?$ ]] || die "MAX_MINUTES=$MAX_MINUTES: must be a number"
[[ $DEVICE =~ ^(cpu|cuda|auto)$ ]] || die "DEVICE=$DEVICE: must be cpu, cuda or auto"
[[ $PRECISION =~ ^(fp32|fp16|bf16|amp)$ ]] || die "PRECISION=$PRECISION: must be fp32, fp16, bf16 or amp"
case $ATTENTION in
    "") die "ATTENTION is not set: name softmax, linear, momentum, adaptive or another kind that --attention has" ;;
    adaptive) flags+=(--attention momentum --connection adaptive) ;;
    *) flags+=(--attention "$ATTENTION") ;;
esac

model=$RUNS/$SIZE/$TASK/$ROW_NAME-seed$SEED
result=$RESULTS/$TASK/$ROW_NAME-seed$SEED.json

# The checksums that meta.json has of all files, as one.
describe_data() { printf 'data %s\n' "$(grep -oE '[0-9a-f]{64}' "$PREPARED/meta.json" | cksum)"; }

train() {
    local settings="BATCH=$BATCH LR=$LR WARMUP=$WARMUP MAX_POSITIONS=${MAX_POSITIONS:-} PRECISION=$PRECISION"
    [[ $ROW_NAME == "$ATTENTION" ]] || settings+=$'\n'"ATTENTION=$ATTENTION"
    settings+=$'\n'$(describe_data)
    keep_settings "$model" "$settings" "$@"
    if is_trained "$model"; then
        say "train: $model is trained, nothing to do"
        return
    fi
    claim_training "$model"
    keep_schedule "$model" "MAX_UPDATE=$MAX_UPDATE"
    note_revision "$model"
    if [[ -n $MAX_MINUTES ]]; then
        # fairseq counts the hours of all runs that a training consists of.
        flags+=(--stop-time-hours "$(python "$ROOT/scripts/hours_trained.py" "$model" --and-minutes "$MAX_MINUTES")")
    fi
    PYTHONWARNINGS=ignore::UserWarning,ignore::FutureWarning fairseq-train "$PREPARED" --user-dir "$USER_DIR" \
        --task lra --lra-task "$TASK" --arch "lra_classifier_$TASK" --criterion classification_loss "${flags[@]}" \
        --optimizer adam --adam-betas "(0.9, 0.999)" --adam-eps 1e-6 --weight-decay 0 --lr "$LR" \
        --lr-scheduler polynomial_decay --warmup-updates "$WARMUP" --total-num-update "$MAX_UPDATE" --end-learning-rate 0 \
        --max-update "$MAX_UPDATE" --batch-size "$BATCH" --seed "$SEED" "${device[@]}" \
        --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric \
        --validate-interval 1000000 --validate-interval-updates "$VALIDATE_EVERY" --save-interval 1000000 \
        --save-interval-updates "$VALIDATE_EVERY" --keep-interval-updates 1 --no-epoch-checkpoints --save-dir "$model" \
        --log-format json --log-interval "$((MAX_UPDATE < 20 ? 1 : MAX_UPDATE / 20))" --no-progress-bar \
        --log-file "$model/train.log" "$@"
}

score() {
    local checkpoint=$model/checkpoint_best.pt
    [[ -f $checkpoint ]] || die "$model: no checkpoint_best.pt in it; train it first"
    is_trained "$model" || say "score: $model hasn't had all of its $MAX_UPDATE updates"
    local settings
    settings=$(describe_data)
    if is_scored "$model" "$result" "$settings" "$checkpoint"; then
        say "score: $result stands, nothing to do"
        return
    fi
    local cpu=()
    [[ $DEVICE == cuda ]] || cpu=(--cpu)
    score_by "$model" "$result" "$settings" env PYTHONWARNINGS=ignore::UserWarning python "$ROOT/scripts/score_lra.py" \
        "$PREPARED" "$checkpoint" "$result" --name "$ROW_NAME" --batch-size "$BATCH" --full-batch-size "${full[0]}" \
        --full-updates "${full[1]}" "${PLUGIN[@]}" "${cpu[@]}"
}

activate
if [[ $DEVICE == auto ]]; then
    DEVICE=$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
fi
device=(--num-workers 2)
[[ $DEVICE == cuda ]] || device=(--cpu --num-workers 0)
if [[ $PRECISION != fp32 ]]; then
    [[ $DEVICE == cuda ]] || die "PRECISION=$PRECISION needs a GPU: fairseq trains in fp32 only on a CPU"
    device+=("--$PRECISION")
fi
if [[ ! -f $PREPARED/meta.json ]]; then
    [[ $PREPARED == "$RUNS/$TASK" ]] || die "PREPARED=$PREPARED: no set in it; make it with scripts/prepare_lra.sh"
    LRA_TASK=$TASK DATA=$DATA OUT=$RUNS SEED=1 bash "$ROOT/scripts/prepare_lra.sh"
fi
for stage in $STAGES; do
    case $stage in
        train) train "$@" ;;
        score) score ;;
        *) die "STAGES: no stage $stage; there are train and score" ;;
    esac
done
