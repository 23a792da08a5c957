#!/usr/bin/env bash
# Scores a model: BLEU and chrF of detokenised text with sacreBLEU's signatures, and speed, to one JSON file.
#   DATA=prepared-folder CHECKPOINT=file OUT=file.json bash scripts/evaluate.sh [evaluate.py's flags]
# DATA        folder made by prepare_parallel.sh; its ref.* files are scored against
# CHECKPOINT  a trained model
# OUT         the JSON file to write
# USER_DIR    see train.sh
# Everything else by flags: python scripts/evaluate.py --help
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DATA=${DATA:-}
CHECKPOINT=${CHECKPOINT:-}
OUT=${OUT:-}
[[ -n $DATA && -n $CHECKPOINT && -n $OUT ]] || die "set DATA (prepared folder), CHECKPOINT (a model) and OUT (JSON to write)"
activate
export PYTHONWARNINGS=ignore::UserWarning,ignore::FutureWarning
exec python "$ROOT/scripts/evaluate.py" "$DATA" "$CHECKPOINT" "$OUT" "${PLUGIN[@]}" "$@"
