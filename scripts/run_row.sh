#!/usr/bin/env bash
# One row of a translation table on prepared data: trains the model, then scores it. The recipes in examples/ call it.
#   ROW=row DATA=prepared-folder MODEL=folder RESULT=file.json bash scripts/run_row.sh [fairseq-train's flags]
# ROW          softmax, linear, momentum, connection or adaptive; symmetric, momentum attention averaged over both directions;
#              teacher, an autoregressive model that distill.sh trained
# ROW_NAME     the row's name in tables, where flags make another row of it (ROW)
# DATA         folder made by prepare_parallel.sh or distill.sh
# MODEL        folder for checkpoints
# RESULT       JSON file to write
# SIZE         tiny, to try things out; small: 2 layers, 128 wide; paper: 278/507/5/2 (paper)
# PRESET       paper: as the papers describe it; published-code: as the code of Nguyen et al. does it, no denoising, no length
#              predictor, adaptive momentum by the velocity; scored with reference lengths and repeats removed (paper)
# STAGES       what to do (train evaluate)
# MAX_UPDATE   updates (20000); the learning rate falls linearly to END_LR (1e-5) over them, from DECAY_UPDATES on constant
#              (MAX_UPDATE). A training can be made longer, but not its DECAY_UPDATES
# MAX_MINUTES  training stops after so many minutes and the same command goes on (no limit)
# AVERAGE      scores the mean of the last so many checkpoints; train with --keep-interval-updates of as many (0: scores the best one)
# LENGTH_BEAM  lengths that are tried (1)
# RESCORE_WITH checkpoint of a teacher that ranks the length beam (none)
# DTYPE        of the scored model: float32, bfloat16 or float16 (float32)
# SPEED_RUNS   timed runs of the scored model; 0 where others run beside it (3)
# SCORE_FLAGS  further flags of evaluate.py ("")
# LR, WARMUP, MAX_TOKENS, TOTAL_TOKENS, VALIDATE_EVERY, SEED, PRECISION, DEVICE, USER_DIR   see train.sh
# Attention and connection as in Nguyen et al. 2022, Table 1, translation. A finished training is left as it is, and so is a result
# newer than its checkpoints that was scored with the same settings.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ROW=${ROW:-}
ROW_NAME=${ROW_NAME:-$ROW}
DATA=${DATA:-}
MODEL=${MODEL:-}
RESULT=${RESULT:-}
SIZE=${SIZE:-paper}
PRESET=${PRESET:-paper}
STAGES=${STAGES:-train evaluate}
export MAX_UPDATE=${MAX_UPDATE:-20000}
DECAY_UPDATES=${DECAY_UPDATES:-$MAX_UPDATE}
END_LR=${END_LR:-1e-5}
MAX_MINUTES=${MAX_MINUTES:-}
AVERAGE=${AVERAGE:-0}
LENGTH_BEAM=${LENGTH_BEAM:-1}
RESCORE_WITH=${RESCORE_WITH:-}
DTYPE=${DTYPE:-float32}
SPEED_RUNS=${SPEED_RUNS:-3}
read -ra score_flags <<<"${SCORE_FLAGS:-}"

[[ -n $DATA && -n $MODEL && -n $RESULT ]] || die "set DATA (prepared folder), MODEL (folder for checkpoints) and RESULT (JSON to write)"
[[ $MAX_MINUTES =~ ^[0-9]*(\.[0-9]+)?$ ]] || die "MAX_MINUTES=$MAX_MINUTES: must be a number"
[[ $AVERAGE =~ ^(0|[2-9]|[1-9][0-9]+)$ ]] || die "AVERAGE=$AVERAGE: must be 0, or 2 or more"
for count in MAX_UPDATE DECAY_UPDATES LENGTH_BEAM; do require_count "$count"; done

momentum=(--attention momentum --attention-momentum 0.6 --attention-step-size 0.6)
case $ROW in
    softmax | linear) training=(--attention "$ROW") ;;
    momentum) training=("${momentum[@]}") ;;
    symmetric) training=("${momentum[@]}" --attention symmetric_momentum) ;;
    connection) training=("${momentum[@]}" --connection momentum --connection-momentum 0.3 --connection-step-size 0.9) ;;
    adaptive) training=("${momentum[@]}" --connection adaptive --connection-step-size 0.9) ;;
    teacher)
        training=()
        [[ $STAGES == evaluate ]] || die "ROW=teacher: distill.sh trains it; STAGES=evaluate scores it"
        ;;
    *) die "ROW=$ROW: must be softmax, linear, momentum, connection, adaptive, symmetric or teacher" ;;
esac
case $SIZE in
    tiny) ARCH=momentum_nat_tiny training+=(--train-steps 2) ;;
    small) ARCH=momentum_nat_multi30k training+=(--layers 2 --train-steps 3) ;;
    paper) ARCH=momentum_nat_iwslt16_en_de training+=(--train-steps 4) ;;
    *) die "SIZE=$SIZE: must be tiny, small or paper" ;;
esac
case $PRESET in
    paper) scoring=() ;;
    published-code)
        training+=(--denoising-probability 0 --length-loss-factor 0 --connection-ratio velocity --oracle-length --collapse-repeats)
        scoring=(--lengths oracle --collapse-repeats)
        ;;
    *) die "PRESET=$PRESET: must be paper or published-code" ;;
esac
[[ $ROW != teacher ]] || scoring=()  # its beam search is the same in both

# What the training depends on beside its flags, one a line.
describe_training() {
    local name
    printf 'data %s\n' "$(cat "$DATA"/data-bin/dict.*.txt "$DATA"/data-bin/train.*.idx | cksum)"
    for name in ROW SIZE PRESET SEED LR WARMUP MAX_TOKENS TOTAL_TOKENS PRECISION; do printf '%s=%s\n' "$name" "${!name:-}"; done
}

train() {
    [[ -d $DATA/data-bin ]] || die "DATA=$DATA: no data-bin in it; make it with prepare_parallel.sh or distill.sh"
    keep_settings "$MODEL" "$(describe_training)" "$@"
    if is_trained "$MODEL"; then
        say "train: $MODEL is trained, nothing to do"
        return
    fi
    claim_training "$MODEL"
    keep_schedule "$MODEL" "DECAY_UPDATES=$DECAY_UPDATES END_LR=$END_LR"
    note_revision "$MODEL"
    local limit=()
    if [[ -n $MAX_MINUTES ]]; then
        # fairseq counts the hours of all runs that a training consists of.
        limit=(--stop-time-hours "$(python "$ROOT/scripts/hours_trained.py" "$MODEL" --and-minutes "$MAX_MINUTES")")
    fi
    ARCH=$ARCH OUT=$MODEL bash "$ROOT/scripts/train.sh" --share-all-embeddings --lr-scheduler polynomial_decay \
        --total-num-update "$DECAY_UPDATES" --end-learning-rate "$END_LR" "${limit[@]}" "${training[@]}" "$@"
    is_trained "$MODEL" || say "train: stopped before update $MAX_UPDATE; the same command goes on"
}

# Prints the last AVERAGE checkpoints that were kept, the oldest first.
last_checkpoints() {
    local found
    mapfile -t found < <(find "$MODEL" -name 'checkpoint_*_*.pt' -printf '%f\n' | sort --field-separator=_ --key=3n)
    ((${#found[@]} >= AVERAGE)) ||
        die "AVERAGE=$AVERAGE: ${#found[@]} checkpoints are kept in $MODEL; train with --keep-interval-updates $AVERAGE"
    found=("${found[@]: -AVERAGE}")
    printf '%s\n' "${found[@]/#/$MODEL/}"
}

evaluate() {
    local checkpoint=$MODEL/checkpoint_best.pt name=$ROW_NAME
    [[ -f $checkpoint ]] || die "MODEL=$MODEL: no checkpoint_best.pt in it; train it first"
    if ((AVERAGE)); then
        name+=", $AVERAGE averaged" checkpoint=$MODEL/average$AVERAGE.pt
        local last
        last=$(last_checkpoints)
        mapfile -t last <<<"$last"
        [[ $checkpoint -nt ${last[-1]} ]] || python "$ROOT/scripts/average_checkpoints.py" "$checkpoint" "${last[@]}"
    fi
    scoring+=(--length-beam "$LENGTH_BEAM")
    [[ -z $RESCORE_WITH ]] || scoring+=(--rescore-with "$RESCORE_WITH")
    [[ ${DEVICE:-auto} != cpu ]] || scoring+=(--cpu)
    local settings="AVERAGE=$AVERAGE DTYPE=$DTYPE SPEED_RUNS=$SPEED_RUNS ${scoring[*]} ${score_flags[*]}"
    [[ $ROW_NAME == "$ROW" ]] || settings+=" ROW_NAME=$ROW_NAME"
    if is_scored "$MODEL" "$RESULT" "$settings" "$checkpoint" "${RESCORE_WITH:-$checkpoint}"; then
        say "evaluate: $RESULT stands, nothing to do"
        return
    fi
    score_by "$MODEL" "$RESULT" "$settings" env CHECKPOINT="$checkpoint" OUT="$RESULT" bash "$ROOT/scripts/evaluate.sh" \
        --name "$name" --dtype "$DTYPE" --speed-runs "$SPEED_RUNS" "${scoring[@]}" "${score_flags[@]}"
}

export DATA
activate
for stage in $STAGES; do
    case $stage in
        train) train "$@" ;;
        evaluate) evaluate ;;
        *) die "STAGES: no stage $stage; there are train and evaluate" ;;
    esac
done
