#!/usr/bin/env bash
# Trains a model on prepared data, or goes on where a training stopped.
#   DATA=prepared-folder OUT=folder bash scripts/train.sh [fairseq-train's flags]
# DATA            folder made by prepare_parallel.sh
# OUT             folder for checkpoints, train.log, tensorboard and the command
# ARCH            architecture (momentum_nat_multi30k)
# MAX_UPDATE      updates (20000)
# MAX_TOKENS      tokens a batch (2048)
# LR              peak learning rate (1e-3), inverse square root after WARMUP updates (400)
# VALIDATE_EVERY  updates between validations with BLEU and checkpoints (500)
# SEED            of initialisation, batches, dropout and corruption (1)
# DEVICE          cpu, cuda, or auto: a GPU where torch sees one (auto)
# PROCESSES       on a CPU, processes side by side, one share of the cores and of MAX_TOKENS each (1). Two processes of one
#                 thread train half as fast again as one of two threads, which wait for each other at every operation.
# A flag after the script's name overrides the script's own. A checkpoint is whole whenever the training is killed; the same
# command goes on from the last one.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DATA=${DATA:-}
OUT=${OUT:-}
ARCH=${ARCH:-momentum_nat_multi30k}
MAX_UPDATE=${MAX_UPDATE:-20000}
MAX_TOKENS=${MAX_TOKENS:-2048}
LR=${LR:-1e-3}
WARMUP=${WARMUP:-400}
VALIDATE_EVERY=${VALIDATE_EVERY:-500}
SEED=${SEED:-1}
DEVICE=${DEVICE:-auto}
PROCESSES=${PROCESSES:-1}

[[ -n $DATA ]] || die "DATA is not set: name the folder that prepare_parallel.sh made"
[[ -n $OUT ]] || die "OUT is not set: name the folder for checkpoints"
[[ -d $DATA/data-bin ]] || die "DATA=$DATA: no data-bin in it; make it with prepare_parallel.sh"
require_count MAX_UPDATE
require_count MAX_TOKENS
require_count VALIDATE_EVERY
require_count PROCESSES
activate

mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"
exec 9>"$OUT/.lock"
flock -n 9 || die "OUT=$OUT: another training is running there; wait for it or name another folder"

arguments=("$DATA/data-bin" --user-dir "$USER_DIR" --task translation_nat --arch "$ARCH" --criterion nat_refinement_loss
    --optimizer adam --adam-betas "(0.9, 0.98)" --lr "$LR" --lr-scheduler inverse_sqrt --warmup-updates "$WARMUP"
    --max-tokens $((MAX_TOKENS / PROCESSES)) --max-update "$MAX_UPDATE" --seed "$SEED" --num-workers 0
    --eval-bleu --eval-bleu-detok moses --eval-bleu-remove-bpe --eval-bleu-args '{"iter_decode_max_iter": 5}'
    --best-checkpoint-metric bleu --maximize-best-checkpoint-metric
    --validate-interval 1000000 --validate-interval-updates "$VALIDATE_EVERY" --save-interval 1000000
    --save-interval-updates "$VALIDATE_EVERY" --keep-interval-updates 1 --no-epoch-checkpoints
    --save-dir "$OUT" --tensorboard-logdir "$OUT/tensorboard"
    --log-format simple --log-interval 100 --no-progress-bar)
case $DEVICE in
    cpu) arguments+=(--cpu) ;;
    cuda) ;;
    auto)
        DEVICE=cuda
        python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { DEVICE=cpu && arguments+=(--cpu); }
        ;;
    *) die "DEVICE=$DEVICE: must be cpu, cuda or auto" ;;
esac
[[ $DEVICE == cpu || $PROCESSES == 1 ]] || die "PROCESSES=$PROCESSES is for a CPU; on GPUs fairseq-train starts one process a GPU"
arguments+=("$@")
printf '%q ' fairseq-train "${arguments[@]}" >"$OUT/command.txt"

export PYTHONWARNINGS=ignore::UserWarning,ignore::FutureWarning
if [[ $PROCESSES == 1 ]]; then
    exec fairseq-train "${arguments[@]}" --log-file "$OUT/train.log"
fi

export OMP_NUM_THREADS=$(($(nproc) > PROCESSES ? $(nproc) / PROCESSES : 1))
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
arguments+=(--distributed-backend gloo --ddp-backend legacy_ddp --distributed-init-method "tcp://127.0.0.1:$port"
    --distributed-world-size "$PROCESSES" --distributed-no-spawn)
workers=()
trap 'kill "${workers[@]}" 2>/dev/null || true' EXIT
for ((rank = 1; rank < PROCESSES; rank++)); do
    fairseq-train "${arguments[@]}" --distributed-rank "$rank" >"$OUT/rank$rank.log" 2>&1 &
    workers+=($!)
done
fairseq-train "${arguments[@]}" --distributed-rank 0 --log-file "$OUT/train.log" &
workers+=($!)
for _ in "${workers[@]}"; do
    wait -n || die "a worker ended with an error; see above and $OUT/rank*.log. The same command goes on from the last checkpoint"
done
