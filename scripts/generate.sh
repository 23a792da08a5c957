#!/usr/bin/env bash
# Translates a prepared set: detokenised hypotheses, one a line, in the order of the source.
#   DATA=prepared-folder CHECKPOINT=file OUT=folder bash scripts/generate.sh [fairseq-generate's flags]
# DATA         folder made by prepare_parallel.sh
# CHECKPOINT   a trained model
# OUT          folder for <SUBSET>.hyp and <SUBSET>.log, fairseq-generate's whole output
# SUBSET       valid or test (test)
# TASK         translation_nat, or translation for an autoregressive model (translation_nat)
# BEAM         beam of an autoregressive model (4); what follows up to HISTORY is for translation_nat only
# STEPS        decoder passes at most, the initial translation included (10)
# ADAPTIVE     1 stops a sentence when its output repeats, 0 runs all passes (1)
# LENGTH_BEAM  lengths tried for each sentence (1)
# ORACLE       1 takes the references' lengths (0)
# HISTORY      1 keeps the output of every pass in the log, lines E-<sentence>_<pass> (0)
# USER_DIR     see train.sh
# MAX_TOKENS   tokens a batch (4096); the translation doesn't depend on it
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DATA=${DATA:-}
CHECKPOINT=${CHECKPOINT:-}
OUT=${OUT:-}
SUBSET=${SUBSET:-test}
TASK=${TASK:-translation_nat}
BEAM=${BEAM:-4}
STEPS=${STEPS:-10}
ADAPTIVE=${ADAPTIVE:-1}
LENGTH_BEAM=${LENGTH_BEAM:-1}
ORACLE=${ORACLE:-0}
HISTORY=${HISTORY:-0}
MAX_TOKENS=${MAX_TOKENS:-4096}

[[ -n $DATA ]] || die "DATA is not set: name the folder that prepare_parallel.sh made"
[[ -n $OUT ]] || die "OUT is not set: name the folder for the translation"
[[ -f $CHECKPOINT ]] || die "CHECKPOINT=$CHECKPOINT: no such file"
[[ -d $DATA/data-bin && -f $DATA/settings.txt ]] || die "DATA=$DATA: no data-bin in it; make it with prepare_parallel.sh"
[[ $TASK =~ ^translation(_nat)?$ ]] || die "TASK=$TASK: must be translation_nat or translation"
for flag in ADAPTIVE ORACLE HISTORY; do require_flag "$flag"; done
for count in BEAM STEPS LENGTH_BEAM MAX_TOKENS; do require_count "$count"; done

activate
mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"

arguments=("$DATA/data-bin" --user-dir "$USER_DIR" --task "$TASK" --path "$CHECKPOINT" --gen-subset "$SUBSET"
    --max-tokens "$MAX_TOKENS" --source-lang "$(setting SOURCE_LANG)" --target-lang "$(setting TARGET_LANG)" --remove-bpe
    --num-workers 0 --no-progress-bar)
case $TASK in
    translation_nat)
        arguments+=(--iter-decode-max-iter "$STEPS" --iter-decode-with-beam "$LENGTH_BEAM" --print-step --beam 1)
        [[ $ADAPTIVE == 1 ]] || arguments+=(--iter-decode-force-max-iter)
        [[ $ORACLE == 0 ]] || arguments+=(--oracle-length)
        [[ $HISTORY == 0 ]] || arguments+=(--retain-iter-history)
        ;;
    # Up to 200 words, as evaluate.py: a limit by the source would be one by the longest of a batch. In batches of any size, or
    # fairseq loses sentences.
    translation) arguments+=(--beam "$BEAM" --max-len-a 0 --max-len-b 200 --required-batch-size-multiple 1) ;;
esac
[[ $(setting TOKENIZED) == 1 ]] || arguments+=(--tokenizer moses)
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || arguments+=(--cpu)

export PYTHONWARNINGS=ignore::UserWarning,ignore::FutureWarning
python "$ROOT/scripts/checkpoint_data.py" "$CHECKPOINT" "$DATA"
log=$OUT/$SUBSET.log
hypotheses=$OUT/$SUBSET.hyp
status=0
fairseq-generate "${arguments[@]}" "$@" >"$log.part" 2>"$log.err" || status=$?
if ((status)); then
    # Without its progress, the first line of which is its whole configuration.
    grep -v ' | INFO | ' "$log.err" | tail -n 5 >&2 || true
    die "fairseq-generate $(describe_status "$status"); its messages are in $log.err"
fi
rm -f "$log.err"
mv "$log.part" "$log"
grep '^D-' "$log" | sed 's/^D-//' | sort -n -k 1,1 | cut -f 3- >"$hypotheses.part"

sentences=$(grep -c '^S-' "$log") || true
reference=$(find "$DATA" -maxdepth 1 -name "ref.$SUBSET.*" | head -n 1)
wanted=$sentences
[[ -z $reference ]] || wanted=$(wc -l <"$reference")
written=$(wc -l <"$hypotheses.part")
[[ $written -eq $wanted && $sentences -eq $wanted ]] || die "$wanted sentences in, $written out; see $log"
mv "$hypotheses.part" "$hypotheses"
say "generate: $written sentences in $hypotheses"
