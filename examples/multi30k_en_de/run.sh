#!/usr/bin/env bash
# One row of the Multi30k En–De table, from raw text to results/<SIZE>/<ROW_NAME>-seed<SEED>.json.
#   ROW=softmax|linear|momentum|connection|adaptive bash examples/multi30k_en_de/run.sh [fairseq-train's flags]
# ROW_NAME    the row's name, where flags make another row of it (ROW)
# SIZE        small: 2 layers, 128 wide, 3 decoder passes in training, what two cores can train; paper: 278/507/5/2, 4 passes;
#             tiny, to try things out (small)
# DATA        folder of the raw files (default: downloaded to RUNS/raw)
# RUNS        folder for prepared data and checkpoints (runs/multi30k in the repository)
# RESULTS     folder for the JSON (examples/multi30k_en_de/results/<SIZE>)
# SEED        (1)
# MAX_UPDATE  updates (700 small, 20000 paper, 20 tiny); the learning rate falls linearly to 1e-5 over them
# MAX_MINUTES training stops after so many minutes at the latest (600)
# STAGES, PRESET, DTYPE, SPEED_RUNS                  see scripts/run_row.sh
# LR, WARMUP, MAX_TOKENS, VALIDATE_EVERY, USER_DIR   see scripts/train.sh; their defaults go by SIZE
# Every row gets the same updates, seed and data; attention and connection as in Nguyen et al. 2022, Table 1, translation.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

export ROW=${ROW:-}
export ROW_NAME=${ROW_NAME:-$ROW}
export SIZE=${SIZE:-small}
RUNS=${RUNS:-$ROOT/runs/multi30k}
DATA=${DATA:-$RUNS/raw}
RESULTS=${RESULTS:-$ROOT/examples/multi30k_en_de/results/$SIZE}
export MAX_MINUTES=${MAX_MINUTES:-600} SEED=${SEED:-1}

case $ROW in
    softmax | linear | momentum | connection | adaptive) ;;
    *) die "ROW=$ROW: must be softmax, linear, momentum, connection or adaptive" ;;
esac
case $SIZE in
    tiny) export MAX_UPDATE=${MAX_UPDATE:-20} LR=${LR:-2e-3} WARMUP=${WARMUP:-5} VALIDATE_EVERY=${VALIDATE_EVERY:-10} ;;
    small) export MAX_UPDATE=${MAX_UPDATE:-700} LR=${LR:-2e-3} WARMUP=${WARMUP:-200} VALIDATE_EVERY=${VALIDATE_EVERY:-175} ;;
    paper)
        export MAX_UPDATE=${MAX_UPDATE:-20000} LR=${LR:-5e-4} WARMUP=${WARMUP:-1000} VALIDATE_EVERY=${VALIDATE_EVERY:-1000}
        export MAX_TOKENS=${MAX_TOKENS:-4096}
        ;;
    *) die "SIZE=$SIZE: must be small, paper or tiny" ;;
esac

prepared=$RUNS/bpe3000 name=$ROW_NAME-seed$SEED
[[ ${PRESET:-paper} == paper ]] || name=$PRESET-$name
if [[ ! -f $prepared/data-bin/dict.de.txt || $DATA != "$RUNS/raw" ]]; then
    [[ $DATA != "$RUNS/raw" ]] || bash "$ROOT/scripts/fetch_multi30k.sh" "$DATA"
    DATA=$DATA OUT=$prepared BPE_OPERATIONS=3000 bash "$ROOT/scripts/prepare_parallel.sh"
fi
DATA=$prepared MODEL=$RUNS/$SIZE-$name RESULT=$RESULTS/$name.json bash "$ROOT/scripts/run_row.sh" "$@"
