#!/usr/bin/env bash
# One row of the Multi30k En–De table, from raw text to results/<SIZE>/<ROW>-seed<SEED>.json.
#   ROW=softmax|linear|momentum|connection|adaptive bash examples/multi30k_en_de/run.sh [fairseq-train's flags]
# SIZE        small: 2 layers, 128 wide, 3 decoder passes in training, what two cores can train; paper: 278/507/5/2, 4 passes (small)
# DATA        folder of the raw files (default: downloaded to RUNS/raw)
# RUNS        folder for prepared data and checkpoints (runs/multi30k in the repository)
# RESULTS     folder for the JSON (examples/multi30k_en_de/results/<SIZE>)
# SEED        (1)
# MAX_UPDATE  updates (700 small, 20000 paper); the learning rate falls linearly to 1e-5 over them
# MAX_MINUTES training stops after so many minutes at the latest (600)
# Every row gets the same updates, seed and data; attention and connection as in Nguyen et al. 2022, Table 1, translation.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

ROW=${ROW:-}
SIZE=${SIZE:-small}
RUNS=${RUNS:-$ROOT/runs/multi30k}
DATA=${DATA:-$RUNS/raw}
RESULTS=${RESULTS:-$ROOT/examples/multi30k_en_de/results/$SIZE}
MAX_MINUTES=${MAX_MINUTES:-600}
export SEED=${SEED:-1}

row=(--attention momentum --attention-momentum 0.6 --attention-step-size 0.6)
case $ROW in
    softmax | linear) row=(--attention "$ROW") ;;
    momentum) ;;
    connection) row+=(--connection momentum --connection-momentum 0.3 --connection-step-size 0.9) ;;
    adaptive) row+=(--connection adaptive --connection-step-size 0.9) ;;
    *) die "ROW=$ROW: must be softmax, linear, momentum, connection or adaptive" ;;
esac
case $SIZE in
    small)
        export ARCH=momentum_nat_multi30k MAX_UPDATE=${MAX_UPDATE:-700} LR=2e-3 VALIDATE_EVERY=${VALIDATE_EVERY:-175}
        size=(--layers 2 --train-steps 3 --warmup-updates 200)
        ;;
    paper)
        export ARCH=momentum_nat_iwslt16_en_de MAX_UPDATE=${MAX_UPDATE:-20000} LR=5e-4 MAX_TOKENS=4096
        export VALIDATE_EVERY=${VALIDATE_EVERY:-1000}
        size=(--train-steps 4 --warmup-updates 1000)
        ;;
    *) die "SIZE=$SIZE: must be small or paper" ;;
esac

prepared=$RUNS/bpe3000 model=$RUNS/$SIZE-$ROW-seed$SEED
if [[ ! -f $prepared/data-bin/dict.de.txt || $DATA != "$RUNS/raw" ]]; then
    [[ $DATA != "$RUNS/raw" ]] || bash "$ROOT/scripts/fetch_multi30k.sh" "$DATA"
    DATA=$DATA OUT=$prepared BPE_OPERATIONS=3000 bash "$ROOT/scripts/prepare_parallel.sh"
fi
DATA=$prepared OUT=$model bash "$ROOT/scripts/train.sh" --share-all-embeddings --lr-scheduler polynomial_decay \
    --total-num-update "$MAX_UPDATE" --end-learning-rate 1e-5 --stop-time-hours "$(awk "BEGIN { print $MAX_MINUTES / 60 }")" \
    "${size[@]}" "${row[@]}" "$@"
DATA=$prepared CHECKPOINT=$model/checkpoint_best.pt OUT=$RESULTS/$ROW-seed$SEED.json \
    bash "$ROOT/scripts/evaluate.sh" --name "$ROW"
