#!/usr/bin/env bash
# Fig. 1 of Nguyen et al. 2022: trains the methods on the copy task with each seed, then draws loss and accuracy.
#   [METHOD="softmax linear …"] [SEED="1 2 3"] bash examples/copy/run.sh [fairseq-train's flags]
# METHOD      any of softmax, linear, momentum, connection (momentum attention and connection) and adaptive (all five)
# SEED        of initialisation and data, alike for all methods ("1 2 3")
# SIZE        paper: 4 layers, 8 heads × 32, sequences of at most 128, batches of 64; small: 2 layers, 4 heads × 32, at most 64,
#             batches of 32, what two cores can train; tiny, to try things out (small)
# RUNS        folder for checkpoints and logs (runs/copy in the repository)
# RESULTS     folder for table.md, curves.json and curves.png (examples/copy/results/<SIZE>)
# MAX_UPDATE  updates (6000 paper, 2000 small, 20 tiny)
# LR_DROP     updates after which the learning rate falls from 1e-3 to 1e-4 (3000 paper, 1000 small, 10 tiny)
# DEVICE      cpu, cuda, or auto: a GPU where torch sees one (auto)
# USER_DIR    see scripts/train.sh
# Momenta and step sizes as in Nguyen et al. 2022, Table 1, copy. The data is made on the fly. The same command goes on where a
# training stopped and leaves a finished one as it is.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

METHOD=${METHOD:-softmax linear momentum connection adaptive}
SEED=${SEED:-1 2 3}
SIZE=${SIZE:-small}
RUNS=${RUNS:-$ROOT/runs/copy}
RESULTS=${RESULTS:-$ROOT/examples/copy/results/$SIZE}
DEVICE=${DEVICE:-auto}

case $SIZE in
    tiny)
        MAX_UPDATE=${MAX_UPDATE:-20} LR_DROP=${LR_DROP:-10}
        size=(--layers 1 --embed-dim 32 --ffn-dim 64 --heads 2 --tokens-per-sample 16 --batch-size 8
            --train-sequences 80 --valid-sequences 16 --log-interval 5)
        ;;
    small)
        MAX_UPDATE=${MAX_UPDATE:-2000} LR_DROP=${LR_DROP:-1000}
        size=(--layers 2 --embed-dim 128 --ffn-dim 512 --heads 4 --tokens-per-sample 64 --batch-size 32
            --train-sequences 6400 --valid-sequences 320 --log-interval 20)
        ;;
    paper)
        MAX_UPDATE=${MAX_UPDATE:-6000} LR_DROP=${LR_DROP:-3000}
        size=(--batch-size 64 --train-sequences 6400 --valid-sequences 640 --log-interval 20)
        ;;
    *) die "SIZE=$SIZE: must be paper, small or tiny" ;;
esac
for count in MAX_UPDATE LR_DROP; do require_count "$count"; done
[[ $SEED =~ ^[1-9][0-9]*(\ [1-9][0-9]*)*$ ]] || die "SEED=$SEED: must be whole numbers, at least 1, with spaces between them"

# Sets `kind`, the flags of a method; the preset has Table 1's numbers.
choose() {
    case $1 in
        softmax | linear | momentum) kind=(--attention "$1" --connection residual) ;;
        connection) kind=(--attention momentum --connection momentum) ;;
        adaptive) kind=(--attention momentum --connection adaptive) ;;
        *) die "METHOD=$1: must be softmax, linear, momentum, connection or adaptive" ;;
    esac
}

for method in $METHOD; do choose "$method"; done
[[ $DEVICE =~ ^(cpu|cuda|auto)$ ]] || die "DEVICE=$DEVICE: must be cpu, cuda or auto"
activate
if [[ $DEVICE == auto ]]; then
    DEVICE=$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
fi
device=(--num-workers 2)
[[ $DEVICE == cuda ]] || device=(--cpu --num-workers 0)

train() {
    local method=$1 seed=$2 out=$RUNS/$SIZE/$1-seed$2 kind arguments
    shift 2
    keep_settings "$out" "LR_DROP=$LR_DROP" "$@"
    if is_trained "$out"; then
        say "copy: $out is trained, nothing to do"
        return
    fi
    claim_training "$out"
    choose "$method"
    arguments=(--user-dir "$USER_DIR" --task copy --arch momentum_lm_copy "${kind[@]}" "${size[@]}" "${device[@]}" --seed "$seed"
        --criterion label_smoothed_cross_entropy --label-smoothing 0 --report-accuracy
        --optimizer radam --lr 1e-3 --lr-scheduler step --lr-deacy-period "$LR_DROP" --lr-decay 0.1 --min-lr 1e-4
        --max-update "$MAX_UPDATE" --no-epoch-checkpoints --save-dir "$out"
        --log-format json --no-progress-bar --log-file "$out/train.log" "$@")
    note_revision "$out"
    printf '%q ' fairseq-train "${arguments[@]}" >"$out/command.txt"
    PYTHONWARNINGS=ignore::UserWarning,ignore::FutureWarning fairseq-train "${arguments[@]}"
}

for seed in $SEED; do
    for method in $METHOD; do train "$method" "$seed" "$@"; done
done
python "$ROOT/scripts/plot_copy.py" "$RUNS/$SIZE" "$RESULTS" --device "$DEVICE"
