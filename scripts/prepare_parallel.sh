#!/usr/bin/env bash
# Raw parallel text to what fairseq-train reads: Moses tokenisation, cleaning, joint BPE, binarising.
#   DATA=folder OUT=folder bash scripts/prepare_parallel.sh
# DATA                      folder of the raw files, one sentence a line: train.en, train.de, val.en, …
# OUT                       folder to write to; data-bin in it is fairseq's
# SOURCE_LANG, TARGET_LANG  languages, the files' extensions (en, de)
# TRAIN, VALID, TEST        names of the files without language (train, val, test_2016_flickr)
# BPE_OPERATIONS            merges to learn (4000); CODES=FILE takes given ones instead
# JOINED_DICTIONARY         1: one dictionary for both languages (1)
# SRCDICT, TGTDICT          given fairseq dictionaries (none; one of them where joined)
# MAX_LENGTH, MAX_RATIO     training pairs with more tokens, or more tokens of one side per token of the other, go (175, 3);
#                           so do those of more than 1,022 sub-words, the most that fairseq's models take
# NORMALIZE                 1: normalise punctuation as Moses does, in all text but the references (0)
# LOWERCASE, TOKENIZED      1: lower-case the text (0), the files are tokenised already (0)
# CORPUS                    what this text is, in a line, to be said with every result (none)
# WORKERS                   processes (2); the result doesn't depend on it
#
# In OUT besides data-bin: ref.<valid|test>.<language> (raw, one line a sentence, for sacreBLEU), codes, report.json
# (lines in and out and why, <unk> rates), settings.txt (with the checksums of all input), tokenised/ and bpe/ (text).
# Each stage is whole or absent. A second run does what is missing. With other settings or input an unfinished OUT is
# done again; a finished one is left alone and the run refused, since checkpoints depend on its dictionary.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DATA=${DATA:-}
OUT=${OUT:-}
SOURCE_LANG=${SOURCE_LANG:-en}
TARGET_LANG=${TARGET_LANG:-de}
TRAIN=${TRAIN:-train}
VALID=${VALID:-val}
TEST=${TEST:-test_2016_flickr}
BPE_OPERATIONS=${BPE_OPERATIONS:-4000}
CODES=${CODES:-}
JOINED_DICTIONARY=${JOINED_DICTIONARY:-1}
SRCDICT=${SRCDICT:-}
TGTDICT=${TGTDICT:-}
MAX_LENGTH=${MAX_LENGTH:-175}
MAX_RATIO=${MAX_RATIO:-3}
NORMALIZE=${NORMALIZE:-0}
LOWERCASE=${LOWERCASE:-0}
TOKENIZED=${TOKENIZED:-0}
CORPUS=${CORPUS:-}
WORKERS=${WORKERS:-2}

check_settings() {
    [[ -n $DATA ]] || die "DATA is not set: name the folder of the raw files"
    [[ -n $OUT ]] || die "OUT is not set: name the folder to write to"
    local name
    for name in SOURCE_LANG TARGET_LANG; do
        [[ ${!name} =~ ^[A-Za-z0-9][A-Za-z0-9_-]*$ ]] ||
            die "$name=${!name}: must be letters, digits, - and _, such as en; rename the files to end in it"
    done
    [[ $SOURCE_LANG != "$TARGET_LANG" ]] || die "SOURCE_LANG and TARGET_LANG are both $SOURCE_LANG"
    require_count BPE_OPERATIONS
    require_count MAX_LENGTH
    require_count WORKERS
    require_flag JOINED_DICTIONARY
    require_flag NORMALIZE
    require_flag LOWERCASE
    require_flag TOKENIZED
    [[ $NORMALIZE$TOKENIZED != 11 ]] || die "NORMALIZE=1 and TOKENIZED=1: punctuation is normalised before text is tokenised; set one"
    [[ $CORPUS != *$'\n'* ]] || die "CORPUS=$CORPUS: must be one line"
    [[ $MAX_RATIO =~ ^[1-9][0-9]*(\.[0-9]+)?$ ]] || die "MAX_RATIO=$MAX_RATIO: must be a number, at least 1"
    if [[ $JOINED_DICTIONARY == 1 && -n $SRCDICT && -n $TGTDICT ]]; then
        die "JOINED_DICTIONARY=1 takes one dictionary: set SRCDICT or TGTDICT, or JOINED_DICTIONARY=0"
    fi
    for name in DATA CODES SRCDICT TGTDICT; do
        if [[ -n ${!name} ]]; then
            [[ -r ${!name} ]] || die "$name=${!name}: no such file or folder"
            printf -v "$name" '%s' "$(realpath "${!name}")"
        fi
    done
    inputs=()
    for name in "$TRAIN" "$VALID" "$TEST"; do
        inputs+=("$DATA/$name.$SOURCE_LANG" "$DATA/$name.$TARGET_LANG")
    done
    for name in "${inputs[@]}"; do
        [[ -f $name && -r $name ]] || die "$name: no such file"
    done
}

# All that the result depends on, one a line: the settings and the checksums of what is read. Not where it lies.
describe_settings() {
    local name
    for name in SOURCE_LANG TARGET_LANG TRAIN VALID TEST BPE_OPERATIONS JOINED_DICTIONARY MAX_LENGTH MAX_RATIO LOWERCASE TOKENIZED; do
        printf '%s=%s\n' "$name" "${!name}"
    done
    [[ $NORMALIZE == 0 ]] || printf 'NORMALIZE=1\n'
    [[ -z $CORPUS ]] || printf 'CORPUS=%s\n' "$CORPUS"
    for name in "${inputs[@]}"; do
        printf 'sha256 %s=%s\n' "${name##*/}" "$(sha256sum <"$name" | cut -d ' ' -f 1)"
    done
    for name in CODES SRCDICT TGTDICT; do
        if [[ -n ${!name} ]]; then
            printf 'sha256 %s=%s\n' "$name" "$(sha256sum <"${!name}" | cut -d ' ' -f 1)"
        fi
    done
}

# Keeps OUT to one run and to one group of settings.
claim_out() {
    mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"
    OUT=$(realpath "$OUT")
    exec 9>"$OUT/.lock"
    flock -n 9 || die "OUT=$OUT: another run is preparing there; wait for it or name another folder"
    remove_parts
    trap remove_parts EXIT
    local settings difference
    settings=$1
    if [[ -f $OUT/settings.txt && $settings == "$(<"$OUT/settings.txt")" ]]; then
        return
    fi
    if [[ -d $OUT/data-bin ]]; then
        difference=$(diff <(cat "$OUT/settings.txt" 2>/dev/null) <(printf '%s\n' "$settings") | grep '^[<>]') || true
        die "OUT=$OUT was prepared from other input or settings (< then, > now); remove it or name another folder"$'\n'"$difference"
    fi
    rm -rf "$OUT/tokenised" "$OUT/bpe" "$OUT/report.json" "$OUT/codes" "$OUT"/ref.*
    printf '%s\n' "$settings" >"$OUT/settings.txt.part.$$"
    mv "$OUT/settings.txt.part.$$" "$OUT/settings.txt"
}

remove_parts() { rm -rf "$OUT"/*.part.*; }

# Runs a command that writes the folder it is given as PART, without the lock, so that what outlives a killed run holds
# nothing; its name has this run's number, so that it can't write into another's.
stage() {
    local name=$1
    shift
    PART=$OUT/$name.part.$$
    "$@" 9>&- || die "$name: failed (see above); nothing of it was kept"
}

tokenise() {
    local options=()
    [[ $NORMALIZE == 0 ]] || options+=(--normalize)
    [[ $LOWERCASE == 0 ]] || options+=(--lowercase)
    [[ $TOKENIZED == 0 ]] || options+=(--tokenized)
    python "$ROOT/scripts/clean_parallel.py" "$DATA" "$PART" --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG" \
        --train "$TRAIN" --valid "$VALID" --test "$TEST" --max-length "$MAX_LENGTH" --max-ratio "$MAX_RATIO" \
        --workers "$WORKERS" "${options[@]}"
}

split_words() {
    local options=()
    [[ $JOINED_DICTIONARY == 0 ]] || options+=(--joined)
    [[ -z $CODES ]] || options+=(--codes "$CODES")
    [[ -z $SRCDICT ]] || options+=(--source-dictionary "$SRCDICT")
    [[ -z $TGTDICT ]] || options+=(--target-dictionary "$TGTDICT")
    python "$ROOT/scripts/encode_parallel.py" "$OUT/tokenised" "$PART" --source-lang "$SOURCE_LANG" \
        --target-lang "$TARGET_LANG" --valid "$DATA/$VALID" --test "$DATA/$TEST" --operations "$BPE_OPERATIONS" "${options[@]}"
}

binarise() {
    local options=()
    [[ $JOINED_DICTIONARY == 0 ]] || options+=(--joined-dictionary)
    [[ -z $SRCDICT ]] || options+=(--srcdict "$SRCDICT")
    [[ -z $TGTDICT ]] || options+=(--tgtdict "$TGTDICT")
    if ! fairseq-preprocess --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG" --trainpref "$OUT/bpe/train" \
        --validpref "$OUT/bpe/valid" --testpref "$OUT/bpe/test" --destdir "$PART" --workers "$WORKERS" "${options[@]}" \
        >"$PART.log" 2>&1; then
        tail -n 5 "$PART.log" >&2
        return 1
    fi
    local split language lines sentences
    for split in train valid test; do
        for language in "$SOURCE_LANG" "$TARGET_LANG"; do
            lines=$(wc -l <"$OUT/bpe/$split.$language")
            sentences=$(sed -nE "s/.*\\[$language\\] .*\\/$split\\.$language: ([0-9]+) sents,.*/\\1/p" "$PART.log")
            if [[ $sentences != "$lines" ]]; then
                say "bpe/$split.$language: $lines lines in, ${sentences:-no} sentences out of fairseq-preprocess" >&2
                return 1
            fi
        done
        say "$split: $lines lines in, $sentences sentences out, none dropped"
    done
    # fairseq's log names folders of this machine and of this run.
    rm -f "$PART/preprocess.log" "$PART.log"
    say "dictionary: $SOURCE_LANG $(wc -l <"$PART/dict.$SOURCE_LANG.txt") types, $TARGET_LANG $(wc -l <"$PART/dict.$TARGET_LANG.txt") types"
}

# Whether OUT is finished with the settings $1; asked without the lock, so that trainings side by side can share an OUT.
stands() {
    [[ -d $OUT/data-bin && -f $OUT/report.json && -f $OUT/codes && -f $OUT/settings.txt && $1 == "$(<"$OUT/settings.txt")" ]]
}

check_settings
settings=$(describe_settings)
if stands "$settings"; then
    say "prepare: $OUT/data-bin stands, nothing to do"
    exit 0
fi
claim_out "$settings"
if stands "$settings"; then
    exit 0
fi
activate

if [[ ! -d $OUT/tokenised ]]; then
    say "prepare: tokenising and cleaning (1 of 3)"
    stage tokenised tokenise
    mv "$PART"/ref.* "$OUT"
    mv "$PART" "$OUT/tokenised"
fi
if [[ ! -d $OUT/bpe || ! -f $OUT/report.json || ! -f $OUT/codes ]]; then
    say "prepare: BPE (2 of 3)"
    rm -rf "$OUT/bpe"
    stage bpe split_words
    mv "$PART/codes" "$PART/report.json" "$OUT"
    mv "$PART" "$OUT/bpe"
fi
if [[ ! -d $OUT/data-bin ]]; then
    say "prepare: binarising (3 of 3)"
    stage data-bin binarise
    mv "$PART" "$OUT/data-bin"
fi
say "prepare: done, $OUT/data-bin"
