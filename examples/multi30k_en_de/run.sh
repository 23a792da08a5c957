#!/usr/bin/env bash
# One row of the Multi30k En–De table, from raw text to results/<ROW>-seed<SEED>.json.
#   ROW=softmax|linear|momentum|connection|adaptive bash examples/multi30k_en_de/run.sh [fairseq-train's flags]
# DATA        folder of the raw files (default: downloaded to RUNS/raw)
# RUNS        folder for prepared data and checkpoints (runs/multi30k in the repository)
# SEED        (1)
# MAX_UPDATE  (800)
# Hyper-parameters of attention and connection: Nguyen et al. 2022, Table 1, translation. The small size (2 layers, 128 wide,
# 3 decoder passes in training) is what one core trains in a quarter of an hour; every row gets the same updates, seed and data.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

ROW=${ROW:-}
RUNS=${RUNS:-$ROOT/runs/multi30k}
DATA=${DATA:-$RUNS/raw}
export SEED=${SEED:-1} MAX_UPDATE=${MAX_UPDATE:-800}

row=(--attention momentum --attention-momentum 0.6 --attention-step-size 0.6)
case $ROW in
    softmax | linear) row=(--attention "$ROW") ;;
    momentum) ;;
    connection) row+=(--connection momentum --connection-momentum 0.3 --connection-step-size 0.9) ;;
    adaptive) row+=(--connection adaptive --connection-step-size 0.9) ;;
    *) die "ROW=$ROW: must be softmax, linear, momentum, connection or adaptive" ;;
esac

[[ $DATA != "$RUNS/raw" ]] || bash "$ROOT/scripts/fetch_multi30k.sh" "$DATA"
prepared=$RUNS/bpe3000
DATA=$DATA OUT=$prepared BPE_OPERATIONS=3000 bash "$ROOT/scripts/prepare_parallel.sh"

DATA=$prepared OUT=$RUNS/$ROW-seed$SEED LR=2e-3 VALIDATE_EVERY=200 bash "$ROOT/scripts/train.sh" \
    --layers 2 --train-steps 3 --share-all-embeddings --lr-scheduler polynomial_decay --warmup-updates 200 \
    --total-num-update "$MAX_UPDATE" --end-learning-rate 1e-5 "${row[@]}" "$@"

DATA=$prepared CHECKPOINT=$RUNS/$ROW-seed$SEED/checkpoint_best.pt OUT=$ROOT/examples/multi30k_en_de/results/$ROW-seed$SEED.json \
    bash "$ROOT/scripts/evaluate.sh" --name "$ROW"
