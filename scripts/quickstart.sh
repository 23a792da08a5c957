#!/usr/bin/env bash
# From nothing to a scored translation in about ten minutes on two cores: sets up, gets data, prepares it, trains a small
# adaptive-momentum NAT, translates, and shows five sentences after every step. A second run redoes nothing.
#   bash scripts/quickstart.sh
# DATA        folder with Multi30k's raw files (default: downloaded; without a network, a generated corpus)
# OUT         folder for everything that is made (runs/quickstart in the repository)
# MAX_UPDATE  updates of 1,024 tokens (2000)
# MINUTES     training stops after so many minutes, whatever the machine (8; less, but at least 4, where all before took long,
#             so that the whole ends within 12 where it can)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DATA=${DATA:-}
OUT=${OUT:-$ROOT/runs/quickstart}
MAX_UPDATE=${MAX_UPDATE:-2000}
MINUTES=${MINUTES:-}
require_count MAX_UPDATE
[[ -z $MINUTES ]] || require_count MINUTES
[[ -z $DATA || -d $DATA ]] || die "DATA=$DATA: no such folder"

# Prints progress from fairseq's log, a short line each; the whole log goes to the file $1.
show_progress() {
    tee "$1" | sed -unE \
        -e 's/.*train_inner \| epoch [^,]*loss=([0-9.]+),.*num_updates=([0-9]+),.* wall=([0-9]+).*/  update \2   loss \1   \3 s/p' \
        -e 's/.*\| valid \|.* \| bleu ([0-9.]+) .*num_updates ([0-9]+).*/  update \2   validation BLEU \1/p'
}

# The translation of sentence $1 after each step, from fairseq-generate's log $2.
show_sentence() {
    awk -F '\t' -v id="$1" '
        $1 == "S-" id { print "  source     " $2 }
        $1 == "T-" id { reference = $2 }
        index($1, "E-" id "_") == 1 {
            step = substr($1, length("E-" id "_") + 1) + 1
            gsub(/@@ /, "", $2)
            printf "  step %-6d%s\n", step, $2
        }
        END { print "  reference  " reference "\n" }' "$2"
}

activate
mkdir -p "$OUT"
test_set=test_2016_flickr
if [[ -z $DATA ]]; then
    if [[ -f $OUT/generated/train.de ]]; then  # the last that is written
        DATA=$OUT/generated
    elif bash "$ROOT/scripts/fetch_multi30k.sh" "$OUT/multi30k"; then
        DATA=$OUT/multi30k
    else
        say ""
        say "##############################################################################################"
        say "# No network: this run uses a GENERATED En-De corpus (scripts/generate_corpus.py), not real  #"
        say "# text. Its BLEU says that all works and nothing more. For Multi30k: DATA=folder, new OUT.   #"
        say "##############################################################################################"
        say ""
        python "$ROOT/scripts/generate_corpus.py" "$OUT/generated"
        DATA=$OUT/generated
    fi
fi
[[ -f $DATA/$test_set.en ]] || test_set="test"
prepared=$OUT/prepared model=$OUT/model
DATA=$DATA TEST=$test_set OUT=$prepared BPE_OPERATIONS=3000 bash "$ROOT/scripts/prepare_parallel.sh"

if [[ ! -f $model/trained ]]; then
    processes=$(($(nproc) < 4 ? $(nproc) : 4))
    ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || processes=1
    # Few epochs, so small batches, a high learning rate, no dropout, two decoder passes, and targets half corrupted: repairing
    # one word in ten teaches the second decoder little more than to copy.
    if [[ -z $MINUTES ]]; then
        MINUTES=$((10 - (SECONDS + 59) / 60))
        MINUTES=$((MINUTES > 8 ? 8 : MINUTES < 4 ? 4 : MINUTES))
    fi
    say "train: up to $MAX_UPDATE updates or $MINUTES minutes; loss = sum over decoder passes and the length; log in $model.log"
    if ! DATA=$prepared OUT=$model VALIDATE_EVERY=500 LR=2e-3 MAX_TOKENS=1024 PROCESSES=$processes bash "$ROOT/scripts/train.sh" \
        --connection adaptive --attention-feature-map taylor --attention-momentum-learned --attention-momentum 0.1 \
        --layers 2 --dropout 0 --train-steps 2 --corruption-rate 0.5 --share-all-embeddings --max-update "$MAX_UPDATE" \
        --lr-scheduler polynomial_decay --warmup-updates 300 --total-num-update "$MAX_UPDATE" --end-learning-rate 1e-5 \
        --log-interval 100 \
        --stop-time-hours "$(awk "BEGIN { print $MINUTES / 60 }")" 2>&1 | show_progress "$model.log"; then
        tail -n 5 "$model.log" >&2
        die "the training failed; its whole log is $model.log"
    fi
    rm -rf "$OUT/scores.json" "$OUT/translation"
    touch "$model/trained"
fi

if [[ ! -f $OUT/scores.json ]]; then
    say "evaluate: BLEU and speed on the test set, adaptive number of steps"
    DATA=$prepared CHECKPOINT=$model/checkpoint_best.pt OUT=$OUT/scores.json \
        bash "$ROOT/scripts/evaluate.sh" --name quickstart --splits test --steps adaptive --lengths predicted \
        --length-beam 3 --speed-sentences 50
fi
if [[ ! -f $OUT/translation/test.hyp ]]; then
    DATA=$prepared CHECKPOINT=$model/checkpoint_best.pt OUT=$OUT/translation LENGTH_BEAM=3 HISTORY=1 \
        bash "$ROOT/scripts/generate.sh"
fi
say ""
say "five test sentences, step by step"
for sentence in 0 1 2 3 4; do show_sentence "$sentence" "$OUT/translation/test.log"; done
python "$ROOT/scripts/table.py" "$OUT/scores.json"
