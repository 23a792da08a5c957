#!/usr/bin/env bash
# One task of the Long Range Arena to labelled sequences that the task `lra` reads, memory-mapped, in OUT/<task>. No TensorFlow.
#   LRA_TASK=listops|text|retrieval|image|pathfinder [DATA=folder] OUT=folder bash scripts/prepare_lra.sh
# LRA_TASK    listops (96000/2000/2000), pathfinder (Pathfinder-32 hard, 160000/20000/20000): generated, DATA is not needed;
#             text (IMDb, 22500/2500/25000), retrieval (AAN, 147086/18090/17437), image (CIFAR-10 grey, 45000/5000/10000): from DATA
# DATA        text: aclImdb, or the folder of train.tsv.xz and test.tsv.xz; retrieval: the folder of new_aan_pairs.*.tsv;
#             image: CIFAR-10's; listops: optionally that of the published basic_*.tsv
# OUT         folder to write to; the set is OUT/<task>, with its report beside it as OUT/<task>.json (and .png for images)
# COUNTS      "TRAIN DEV TEST" examples, for fewer than all (as above)
# MAX_LENGTH  text and retrieval: bytes to keep of each text; what is cut is counted (all)
# SEED        what is drawn, and which examples go to dev (1)
# WORKERS     processes that generate; they change no byte (one a core)
# Each set is whole or absent; a second run does nothing, an interrupted one goes on. Further arguments go to the Python script.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LRA_TASK=${LRA_TASK:-}
DATA=${DATA:-}
OUT=${OUT:-}
COUNTS=${COUNTS:-}
MAX_LENGTH=${MAX_LENGTH:-}
SEED=${SEED:-1}
WORKERS=${WORKERS:-$(nproc)}

require_count SEED 0
require_count WORKERS
[[ -n $OUT ]] || die "OUT is not set: name the folder to write to"
case $LRA_TASK in
    listops) step=generate_listops ;;
    pathfinder) step=generate_pathfinder ;;
    text) step=import_imdb ;;
    retrieval) step=import_aan ;;
    image) step=import_cifar10_grey ;;
    *) die "LRA_TASK=$LRA_TASK: must be listops, text, retrieval, image or pathfinder" ;;
esac
if [[ $LRA_TASK == listops && -n $DATA ]]; then
    step=import_listops
fi
arguments=(--seed "$SEED")
if [[ $step == generate_* ]]; then
    [[ -z $DATA ]] || die "DATA=$DATA: $LRA_TASK is generated and takes none"
    arguments+=(--workers "$WORKERS")
else
    [[ -n $DATA ]] || die "DATA is not set: name the folder of $LRA_TASK's published files"
    [[ -d $DATA ]] || die "DATA=$DATA: no such folder"
    arguments=("$(realpath "$DATA")" "${arguments[@]}")
fi
if [[ -n $COUNTS ]]; then
    [[ $COUNTS =~ ^[0-9]+\ +[0-9]+\ +[0-9]+$ ]] || die "COUNTS=$COUNTS: must be three numbers, of train, dev and test"
    read -ra counts <<<"$COUNTS"
    arguments+=(--counts "${counts[@]}")
fi
if [[ -n $MAX_LENGTH ]]; then
    [[ $LRA_TASK == text || $LRA_TASK == retrieval ]] || die "MAX_LENGTH=$MAX_LENGTH: only text and retrieval are cut"
    require_count MAX_LENGTH
    arguments+=(--max-length "$MAX_LENGTH")
fi

mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"
OUT=$(realpath "$OUT")
# One run at a time; the lock ends with the run.
exec 8>"$OUT/.$LRA_TASK.lock"
flock -n 8 || die "OUT=$OUT: another run is preparing $LRA_TASK there; wait for it or name another folder"
activate
say "prepare: $LRA_TASK"
python "$ROOT/scripts/$step.py" "${arguments[@]}" "$@" "$OUT/$LRA_TASK" 8>&-

report=("$OUT/$LRA_TASK" --json "$OUT/$LRA_TASK.json")
if [[ $LRA_TASK == image || $LRA_TASK == pathfinder ]]; then
    report+=(--sheet "$OUT/$LRA_TASK.png")
fi
if [[ ! $OUT/$LRA_TASK.json -nt $OUT/$LRA_TASK/meta.json ]]; then
    python "$ROOT/scripts/lra_report.py" "${report[@]}" 8>&-
fi
say "prepare: done: $OUT/$LRA_TASK"
