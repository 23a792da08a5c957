#!/usr/bin/env bash
# One row of Table 5 of Nguyen et al. 2022, from data to results/<CORPUS>-<SIZE>/<ROW_NAME>-seed<SEED>.json.
#   ROW=softmax|linear|momentum|connection|adaptive|symmetric|teacher bash examples/iwslt16_en_de/run.sh [fairseq-train's flags]
# ROW_NAME    the row's name, where flags make another row of it (ROW)
# CORPUS      iwslt16; ted_mix, a substitute for its training set; multi30k (iwslt16)
# DATA        iwslt16: its archive (default: downloaded); ted_mix: its folder; multi30k: folder of raw files (default: downloaded).
#             Not needed where RUNS/<CORPUS>/prepared stands.
# DISTILLED   1 trains on the teacher's translations of the training set, 0 on the references (1)
# PRESET      paper: as the papers describe it; published-code: as their code does it, see scripts/run_row.sh (paper)
# SIZE        paper: 278/507/5/2; small: 2 layers, 128 wide; tiny, to try things out (paper)
# RUNS        folder for prepared data and checkpoints (runs in the repository)
# RESULTS     folder for the JSON (examples/iwslt16_en_de/results/<CORPUS>-<SIZE>)
# SEED        (1)
# MAX_UPDATE  updates (250000 paper, 700 small, 20 tiny); the learning rate falls linearly to 1e-5 over them
# AVERAGE     scores the mean of the last so many checkpoints (0)
# LENGTH_BEAM lengths that are tried (1); RESCORE=1 has the teacher rank them (0)
# MAX_MINUTES, STAGES, DTYPE, SPEED_RUNS, SCORE_FLAGS, PRECISION, DEVICE   see scripts/run_row.sh
# LR, WARMUP, MAX_TOKENS, TOTAL_TOKENS, VALIDATE_EVERY, USER_DIR           see scripts/train.sh; their defaults go by SIZE
# TEACHER_…, WORKERS, SHARDS, DECODE_TOKENS                                see scripts/distill.sh
# BPE_OPERATIONS                                                           of multi30k, see scripts/prepare_parallel.sh (3000)
# The paper's schedule: Adam, 3e-4 falling to 1e-5 over 250,000 updates of 2 × 2,048 tokens, however many GPUs there are: on one
# GPU of today about two days. Every stage that stands is left as it is, and the same command goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

export ROW=${ROW:-} SIZE=${SIZE:-paper} PRESET=${PRESET:-paper} SEED=${SEED:-1}
export ROW_NAME=${ROW_NAME:-$ROW}
CORPUS=${CORPUS:-iwslt16}
DATA=${DATA:-}
DISTILLED=${DISTILLED:-1}
RUNS=${RUNS:-$ROOT/runs}
RESULTS=${RESULTS:-$ROOT/examples/iwslt16_en_de/results/$CORPUS-$SIZE}
STAGES=${STAGES:-train evaluate}
export AVERAGE=${AVERAGE:-0} LENGTH_BEAM=${LENGTH_BEAM:-1}
RESCORE=${RESCORE:-0}
require_flag DISTILLED
require_flag RESCORE

case $ROW in
    softmax | linear | momentum | connection | adaptive | symmetric | teacher) ;;
    *) die "ROW=$ROW: must be softmax, linear, momentum, connection, adaptive, symmetric or teacher" ;;
esac
case $SIZE in
    tiny)
        export MAX_UPDATE=${MAX_UPDATE:-20} LR=${LR:-2e-3} WARMUP=${WARMUP:-5} VALIDATE_EVERY=${VALIDATE_EVERY:-10}
        teacher=(momentum_transformer_tiny 20 1e-3 5 10)
        ;;
    small)
        export MAX_UPDATE=${MAX_UPDATE:-700} LR=${LR:-2e-3} WARMUP=${WARMUP:-200} VALIDATE_EVERY=${VALIDATE_EVERY:-175}
        teacher=(momentum_transformer_multi30k 3000 1e-3 500 500)
        ;;
    paper)
        export MAX_UPDATE=${MAX_UPDATE:-250000} LR=${LR:-3e-4} WARMUP=${WARMUP:-0} VALIDATE_EVERY=${VALIDATE_EVERY:-2000}
        export MAX_TOKENS=${MAX_TOKENS:-4096} TOTAL_TOKENS=${TOTAL_TOKENS:-4096}
        teacher=(momentum_transformer_iwslt16_en_de 30000 5e-4 4000 1000)
        ;;
    *) die "SIZE=$SIZE: must be paper, small or tiny" ;;
esac
given=("${!TEACHER_@}")
export TEACHER_ARCH=${TEACHER_ARCH:-${teacher[0]}} TEACHER_MAX_UPDATE=${TEACHER_MAX_UPDATE:-${teacher[1]}}
export TEACHER_LR=${TEACHER_LR:-${teacher[2]}} TEACHER_WARMUP=${TEACHER_WARMUP:-${teacher[3]}}
export TEACHER_VALIDATE_EVERY=${TEACHER_VALIDATE_EVERY:-${teacher[4]}}

prepared=$RUNS/$CORPUS/prepared distilled=$RUNS/$CORPUS/distilled-$SIZE
prepare() {
    case $CORPUS in
        iwslt16) CORPUS='' ARCHIVE=$DATA OUT=$prepared bash "$ROOT/scripts/prepare_iwslt16.sh" ;;
        ted_mix) CORPUS='' DATA=$DATA OUT=$prepared bash "$ROOT/scripts/prepare_ted_mix.sh" ;;
        multi30k)
            local raw=${DATA:-$RUNS/multi30k/raw}
            [[ -n $DATA ]] || bash "$ROOT/scripts/fetch_multi30k.sh" "$raw"
            CORPUS="Multi30k" DATA=$raw OUT=$prepared BPE_OPERATIONS=${BPE_OPERATIONS:-3000} bash "$ROOT/scripts/prepare_parallel.sh"
            ;;
        *) die "CORPUS=$CORPUS: must be iwslt16, ted_mix or multi30k" ;;
    esac
}
# What is given of the teacher must be what the one that stands was made with; what isn't given follows it.
check_teacher() {
    local name noted
    for name in "${given[@]}"; do
        noted=$(grep -s "^$name=" "$distilled/settings.txt") || continue
        [[ $noted == "$name=${!name}" ]] ||
            die "$name=${!name}: the teacher in $distilled has $noted; set that or leave $name out, remove the folder, or name other RUNS"
    done
}

[[ -d $prepared/data-bin && -z $DATA ]] || prepare
data=$prepared
if [[ $ROW == teacher || ($DISTILLED == 1 && ! -d $distilled/data) || ($RESCORE == 1 && ! -f $distilled/teacher/trained) ]]; then
    # The teacher is the same for all seeds.
    DATA=$prepared OUT=$distilled STUDENT=0 bash "$ROOT/scripts/distill.sh"
elif [[ $DISTILLED == 1 || $RESCORE == 1 ]]; then
    check_teacher
fi
if [[ $ROW == teacher ]]; then
    DATA=$prepared MODEL=$distilled/teacher RESULT=$RESULTS/teacher-seed1.json ROW_NAME=teacher STAGES=evaluate AVERAGE=0 \
        LENGTH_BEAM=1 bash "$ROOT/scripts/run_row.sh"
    exit
fi

name=$ROW_NAME-seed$SEED
[[ $DISTILLED == 1 ]] || name=raw-$name
[[ $PRESET == paper ]] || name=$PRESET-$name
[[ $DISTILLED == 0 ]] || data=$distilled/data
model=$RUNS/$CORPUS/$SIZE-$name
((AVERAGE == 0)) || name+=-average$AVERAGE
((LENGTH_BEAM == 1)) || name+=-beam$LENGTH_BEAM
if [[ $RESCORE == 1 ]]; then
    export RESCORE_WITH=$distilled/teacher/checkpoint_best.pt
    name+=-rescored
fi
DATA=$data MODEL=$model RESULT=$RESULTS/$name.json STAGES=$STAGES bash "$ROOT/scripts/run_row.sh" "$@"
