#!/usr/bin/env bash
# Trains a model on prepared data, or goes on where a training stopped.
#   DATA=prepared-folder OUT=folder bash scripts/train.sh [fairseq-train's flags]
# DATA            folder made by prepare_parallel.sh or distill.sh
# OUT             folder for checkpoints, train.log, tensorboard, the dictionaries and the command
# TASK            translation_nat, or translation for an autoregressive model (translation_nat)
# ARCH            architecture (momentum_nat_multi30k)
# CRITERION       loss (nat_refinement_loss; label_smoothed_cross_entropy, smoothed by 0.1, for an autoregressive model)
# USER_DIR        folder of a plug-in that imports momentum_fairseq, see README, A new attention kind (momentum_fairseq)
# MAX_UPDATE      updates (20000)
# MAX_TOKENS      most tokens in a worker's batch (2048)
# TOTAL_TOKENS    tokens an update in all, held exactly by accumulation whatever the number of workers
#                 (MAX_TOKENS, shared by the workers)
# LR              peak learning rate (1e-3), inverse square root after WARMUP updates (400)
# VALIDATE_EVERY  updates between validations with BLEU and checkpoints (500)
# SEED            of initialisation, batches, dropout and corruption (1)
# PRECISION       fp32, fp16, bf16 or amp (fp32); all but fp32 need a GPU
# DEVICE          cpu, cuda, or auto: a GPU where torch sees one (auto)
# GPUS            GPUs of this machine, one worker each (all that torch sees)
# PROCESSES       on a CPU, workers side by side, one share of the cores each (1). Two processes of one thread train half as
#                 fast again as one of two threads, which wait for each other at every operation.
# NODES           machines (1). On each: the same command with its NODE_RANK (0, 1, …), the address of machine 0 in
#                 MASTER_ADDR, and MASTER_PORT (29500). srun with one task a machine sets all four. OUT lies on shared storage.
# A flag after the script's name overrides the script's own. A checkpoint is whole whenever the training is killed; the same
# command goes on from the last one.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/workers.sh"

DATA=${DATA:-}
OUT=${OUT:-}
TASK=${TASK:-translation_nat}
ARCH=${ARCH:-momentum_nat_multi30k}
CRITERION=${CRITERION:-}
MAX_UPDATE=${MAX_UPDATE:-20000}
MAX_TOKENS=${MAX_TOKENS:-2048}
TOTAL_TOKENS=${TOTAL_TOKENS:-}
LR=${LR:-1e-3}
WARMUP=${WARMUP:-400}
VALIDATE_EVERY=${VALIDATE_EVERY:-500}
SEED=${SEED:-1}
PRECISION=${PRECISION:-fp32}
DEVICE=${DEVICE:-auto}
GPUS=${GPUS:-}
PROCESSES=${PROCESSES:-1}
NODES=${NODES:-}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-}

check_settings() {
    [[ -n $DATA ]] || die "DATA is not set: name the folder that prepare_parallel.sh made"
    [[ -n $OUT ]] || die "OUT is not set: name the folder for checkpoints"
    [[ -d $DATA/data-bin ]] || die "DATA=$DATA: no data-bin in it; make it with prepare_parallel.sh"
    local name
    for name in MAX_UPDATE MAX_TOKENS VALIDATE_EVERY PROCESSES; do require_count "$name"; done
    for name in TOTAL_TOKENS GPUS NODES; do
        [[ -z ${!name} ]] || require_count "$name"
    done
    case $TASK in
        translation_nat) CRITERION=${CRITERION:-nat_refinement_loss} ;;
        translation) CRITERION=${CRITERION:-label_smoothed_cross_entropy} ;;
        *) die "TASK=$TASK: must be translation_nat or translation" ;;
    esac
    [[ $PRECISION =~ ^(fp32|fp16|bf16|amp)$ ]] || die "PRECISION=$PRECISION: must be fp32, fp16, bf16 or amp"
    [[ $DEVICE =~ ^(cpu|cuda|auto)$ ]] || die "DEVICE=$DEVICE: must be cpu, cuda or auto"
}

# Sets DEVICE, and LOCAL_WORKERS, the workers of this machine.
count_workers() {
    local visible=0
    [[ $DEVICE == cpu ]] || visible=$(python -c 'import torch; print(torch.cuda.device_count())')
    if [[ $DEVICE == cuda || -n $GPUS ]] && ((visible == 0)); then
        die "DEVICE=$DEVICE GPUS=$GPUS: torch sees no GPU here; on a CPU set PROCESSES, not GPUS"
    fi
    if ((visible == 0)); then
        DEVICE=cpu LOCAL_WORKERS=$PROCESSES
        [[ $PRECISION == fp32 ]] || die "PRECISION=$PRECISION needs a GPU: fairseq trains in fp32 only on a CPU"
        return
    fi
    DEVICE=cuda LOCAL_WORKERS=${GPUS:-$visible}
    ((PROCESSES == 1)) || die "PROCESSES=$PROCESSES is for a CPU; on GPUs set GPUS"
    ((LOCAL_WORKERS <= visible)) || die "GPUS=$GPUS: torch sees $visible here"
}

# Sets NODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, by srun's environment where it started us and they are not given.
find_place() {
    if [[ -z $NODES && -n ${SLURM_STEP_NUM_NODES:-} ]]; then
        [[ ${SLURM_STEP_NUM_TASKS:-} == "$SLURM_STEP_NUM_NODES" ]] ||
            die "srun started ${SLURM_STEP_NUM_TASKS:-no} tasks on $SLURM_STEP_NUM_NODES machines; start one a machine" \
                "(--ntasks-per-node=1): train.sh starts a worker a GPU itself"
        NODES=$SLURM_STEP_NUM_NODES NODE_RANK=$SLURM_NODEID
        MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
        if ((NODES > 1)) && [[ -z $MASTER_ADDR ]]; then
            MASTER_ADDR=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1) || die "scontrol show hostnames failed"
        fi
    elif [[ -z $NODES ]] && ((${SLURM_JOB_NUM_NODES:-1} > 1)); then
        die "this job has $SLURM_JOB_NUM_NODES machines, but train.sh runs on one: start it by srun --ntasks-per-node=1, or set NODES=1"
    fi
    NODES=${NODES:-1}
    if ! [[ $NODE_RANK =~ ^[0-9]{1,9}$ ]] || ((NODE_RANK >= NODES)); then
        die "NODE_RANK=$NODE_RANK: must be a whole number below NODES=$NODES"
    fi
    if ((NODES == 1)); then
        MASTER_ADDR=127.0.0.1
        MASTER_PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
    MASTER_PORT=${MASTER_PORT:-29500}
    [[ -n $MASTER_ADDR ]] || die "MASTER_ADDR is not set: with NODES=$NODES, name machine 0's address"
    require_count MASTER_PORT
}

# Sets WORKERS, of all machines, and BATCH, the flags for each worker's share of the batch.
share_batch() {
    WORKERS=$((NODES * LOCAL_WORKERS))
    if [[ -z $TOTAL_TOKENS ]]; then
        ((MAX_TOKENS >= WORKERS)) || die "MAX_TOKENS=$MAX_TOKENS: fewer than the $WORKERS workers that share them"
        BATCH=(--max-tokens $((MAX_TOKENS / WORKERS)))
        return
    fi
    local at_a_time=$((WORKERS * MAX_TOKENS)) accumulated
    accumulated=$(((TOTAL_TOKENS + at_a_time - 1) / at_a_time))
    ((TOTAL_TOKENS % (WORKERS * accumulated) == 0)) ||
        die "TOTAL_TOKENS=$TOTAL_TOKENS can't be held exactly by $WORKERS workers with $accumulated batches of at most" \
            "MAX_TOKENS=$MAX_TOKENS each: take a multiple of $((WORKERS * accumulated)), or another number of workers or MAX_TOKENS"
    BATCH=(--max-tokens $((TOTAL_TOKENS / WORKERS / accumulated)) --update-freq "$accumulated")
    say "train: $WORKERS workers × $accumulated batches × $((TOTAL_TOKENS / WORKERS / accumulated)) tokens = $TOTAL_TOKENS tokens an update"
}

# Keeps OUT to one training and to one pair of dictionaries; they stay beside the checkpoints that can't be read without them.
claim_out() {
    claim_training "$OUT"
    local dictionary
    for dictionary in "$DATA"/data-bin/dict.*.txt; do
        if [[ -f $OUT/checkpoint_last.pt && -f $OUT/${dictionary##*/} ]]; then
            cmp -s "$dictionary" "$OUT/${dictionary##*/}" ||
                die "OUT=$OUT was trained with another ${dictionary##*/} than DATA=$DATA has; name another folder"
        fi
        cp "$dictionary" "$OUT/${dictionary##*/}.part"
        mv "$OUT/${dictionary##*/}.part" "$OUT/${dictionary##*/}"
    done
}

check_settings
activate
count_workers
find_place
share_batch
mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"
# Of several machines the first has OUT; the others write nothing but their workers' logs.
((NODE_RANK > 0)) || claim_out
if [[ " $* " != *" --max-update"[\ =]* ]] && is_trained "$OUT"; then
    say "train: $OUT is trained, nothing to do"
    exit
fi

arguments=("$DATA/data-bin" --user-dir "$USER_DIR" --task "$TASK" --arch "$ARCH" --criterion "$CRITERION"
    --optimizer adam --adam-betas "(0.9, 0.98)" --lr "$LR" --lr-scheduler inverse_sqrt --warmup-updates "$WARMUP"
    "${BATCH[@]}" --max-update "$MAX_UPDATE" --seed "$SEED" --num-workers 0
    --eval-bleu --eval-bleu-detok moses --eval-bleu-remove-bpe
    --best-checkpoint-metric bleu --maximize-best-checkpoint-metric
    --validate-interval 1000000 --validate-interval-updates "$VALIDATE_EVERY" --save-interval 1000000
    --save-interval-updates "$VALIDATE_EVERY" --keep-interval-updates 1 --no-epoch-checkpoints
    --save-dir "$OUT" --tensorboard-logdir "$OUT/tensorboard"
    --log-format simple --log-interval 100 --no-progress-bar --distributed-world-size "$WORKERS")
if [[ -f $DATA/settings.txt ]]; then  # so that a checkpoint tells its direction
    arguments+=(--source-lang "$(setting SOURCE_LANG)" --target-lang "$(setting TARGET_LANG)")
fi
if [[ $TASK == translation_nat ]]; then
    arguments+=(--eval-bleu-args '{"iter_decode_max_iter": 5}')
else
    # Greedy, and not for 200 words where the source has 10; in batches of any size, or fairseq loses sentences.
    arguments+=(--eval-bleu-args '{"beam": 1, "max_len_a": 2, "max_len_b": 10}' --required-batch-size-multiple 1)
    [[ $CRITERION != label_smoothed_cross_entropy ]] || arguments+=(--label-smoothing 0.1)
fi
[[ $PRECISION == fp32 ]] || arguments+=("--$PRECISION")
backend=nccl
[[ $DEVICE == cuda ]] || { arguments+=(--cpu) && backend=gloo; }
if ((WORKERS > 1)); then
    # legacy_ddp bears parameters without gradient and works on a CPU, as no other does. Each worker reads the checkpoint
    # itself: what fairseq sends to the others in its place, torch's safe loader refuses.
    arguments+=(--distributed-backend "$backend" --ddp-backend legacy_ddp --distributed-no-spawn --load-checkpoint-on-all-dp-ranks
        --distributed-init-method "tcp://$MASTER_ADDR:$MASTER_PORT")
fi
arguments+=("$@")
((NODE_RANK > 0)) || printf '%q ' fairseq-train "${arguments[@]}" >"$OUT/command.txt"

export PYTHONWARNINGS=ignore::UserWarning,ignore::FutureWarning
if ((WORKERS == 1)); then
    exec fairseq-train "${arguments[@]}" --log-file "$OUT/train.log"
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) > LOCAL_WORKERS ? $(nproc) / LOCAL_WORKERS : 1))}
for ((worker = 0; worker < LOCAL_WORKERS; worker++)); do
    rank=$((NODE_RANK * LOCAL_WORKERS + worker)) log=$OUT/rank$((NODE_RANK * LOCAL_WORKERS + worker)).log
    place=(--distributed-rank "$rank" --device-id "$worker")
    ((rank > 0)) || { place+=(--log-file "$OUT/train.log") && log=; }
    start_worker "$rank" "$log" fairseq-train "${arguments[@]}" "${place[@]}"
done
if ! wait_for_workers; then
    [[ -f $OUT/checkpoint_last.pt ]] || die "the training stopped before its first checkpoint; see above and $OUT/rank*.log"
    die "the training stopped; see above and $OUT/rank*.log. The same command goes on from $OUT/checkpoint_last.pt"
fi
