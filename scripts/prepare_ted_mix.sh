#!/usr/bin/env bash
# ted_mix, a substitute for IWSLT'16's training set (TED and Tatoeba pairs, tokenised and lower-cased; valid is tst2013, test is
# tst2014), to what fairseq-train reads. Settings, and so every result, say: lower-cased, tokenised, substitute training set.
#   DATA=folder OUT=folder bash scripts/prepare_ted_mix.sh
# DATA            folder of train.{en,de}.xz, train.src.xz (each line's source), valid.{en,de}, test.{en,de}
# OUT             folder to write to; data-bin in it is fairseq's
# SOURCE_LANG, TARGET_LANG  en, de or de, en (en, de)
# BPE_OPERATIONS  merges to learn (40000)
# CODES, JOINED_DICTIONARY, SRCDICT, TGTDICT, MAX_LENGTH, MAX_RATIO, WORKERS   see prepare_parallel.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$ROOT/scripts/unpack_raw.sh"

DATA=${DATA:-}
OUT=${OUT:-}
export SOURCE_LANG=${SOURCE_LANG:-en} TARGET_LANG=${TARGET_LANG:-de}
export BPE_OPERATIONS=${BPE_OPERATIONS:-40000} LOWERCASE=1 TOKENIZED=1 NORMALIZE=0

[[ -n $DATA ]] || die "DATA is not set: name the folder of ted_mix"
[[ -d $DATA ]] || die "DATA=$DATA: no such folder"
DATA=$(realpath "$DATA")
files=("$DATA"/{train,valid,test}.{"$SOURCE_LANG","$TARGET_LANG",src}{,.xz})
present=()
for file in "${files[@]}"; do
    [[ ! -f $file ]] || present+=("$file")
done
((${#present[@]})) || die "DATA=$DATA: no train.$SOURCE_LANG.xz, valid.$SOURCE_LANG, … in it"
make_out

settings=$(cd "$DATA" && sha256sum "${present[@]##*/}")
say "prepare: ted_mix $SOURCE_LANG-$TARGET_LANG: lower-cased, tokenised, a substitute for IWSLT'16's training set"
unpack_raw "$settings" python "$ROOT/scripts/unpack_ted_mix.py" --languages "$SOURCE_LANG" "$TARGET_LANG" -- "$DATA"
export CORPUS="TED mix $SOURCE_LANG-$TARGET_LANG: lower-cased, a substitute for IWSLT'16's training set (TED and Tatoeba)"
prepare_raw
