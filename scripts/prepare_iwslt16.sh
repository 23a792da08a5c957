#!/usr/bin/env bash
# IWSLT'16 En–De (or '14, '17, another pair) from its archive as published to what fairseq-train reads: tags stripped, entities
# unescaped, punctuation normalised, Moses tokenisation, cleaning by length and ratio, 40k joint BPE, binarised.
#   [ARCHIVE=file-or-folder] OUT=folder bash scripts/prepare_iwslt16.sh
# ARCHIVE                   .tgz, .tar or .zip of one language pair (en-de.tgz) or of the year (2016-01.tgz, with those inside),
#                           or a folder with what was unpacked (default: downloaded to OUT/iwslt<EDITION>.archive)
# OUT                       folder to write to; data-bin in it is fairseq's
# EDITION                   14, 16 or 17 (16)
# SOURCE_LANG, TARGET_LANG  languages (en, de); an archive of the opposite direction will do
# VALID, TEST               held-out sets, several with spaces between (tst2013, tst2014; for '14, which has no later ones:
#                           tst2011, tst2012); TEDX.tst2013 is one of TEDx
# BPE_OPERATIONS            merges to learn (40000)
# ARCHIVE_URL, ARCHIVE_MD5  where to download from and the checksum of ARCHIVE (known for '16)
# NORMALIZE (1), CODES, JOINED_DICTIONARY, SRCDICT, TGTDICT, MAX_LENGTH, MAX_RATIO, LOWERCASE, WORKERS   see prepare_parallel.sh
#
# In OUT, besides what prepare_parallel.sh makes: raw/<train|valid|test>.<language> and raw/report.json, lines in and out and
# why. Each stage is whole or absent, a second run does what is missing. IWSLT'16 En–De has 196,884 training pairs.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$ROOT/scripts/unpack_raw.sh"

OUT=${OUT:-}
ARCHIVE=${ARCHIVE:-}
ARCHIVE_MD5=${ARCHIVE_MD5:-}
EDITION=${EDITION:-16}
export SOURCE_LANG=${SOURCE_LANG:-en} TARGET_LANG=${TARGET_LANG:-de}
export BPE_OPERATIONS=${BPE_OPERATIONS:-40000} NORMALIZE=${NORMALIZE:-1} TOKENIZED=0

# WIT3 moved: wit3.fbk.eu/archive/… is gone. These are where fairseq ('14), torchtext ('16, and its checksum) and datasets ('17) fetch.
valid=tst2013 test=tst2014 md5=""
case $EDITION in
    14)
        valid=tst2011 test=tst2012
        url=https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz
        ;;
    16)
        url='https://drive.usercontent.google.com/download?id=1l5y6Giag9aRPwGtuZHswh3w5v3qEz8D8&export=download&confirm=t'
        md5=c393ed3fc2a1b0f004b3331043f615ae
        ;;
    17)
        url=https://huggingface.co/datasets/IWSLT/iwslt2017/resolve/main/data/2017-01-trnted/texts
        url+=/$SOURCE_LANG/$TARGET_LANG/$SOURCE_LANG-$TARGET_LANG.zip
        ;;
    *) die "EDITION=$EDITION: must be 14, 16 or 17" ;;
esac
VALID=${VALID:-$valid} TEST=${TEST:-$test}
for name in SOURCE_LANG TARGET_LANG; do
    [[ ${!name} =~ ^[A-Za-z-]+$ ]] || die "$name=${!name}: must be a language as in the archive's file names, such as en"
done
for name in VALID TEST; do
    [[ ${!name} =~ ^\ *([A-Za-z0-9.]+\ *)+$ ]] || die "$name=${!name}: must name sets such as tst2013, with spaces between"
done
make_out

# Says what to fetch by hand, and where to put it.
how_to_fetch() {
    local pair=$SOURCE_LANG-$TARGET_LANG
    printf '%s' "fetch the archive of IWSLT'$EDITION yourself: $pair.tgz, with train.tags.$pair.$SOURCE_LANG in it, or the whole year's;" \
        " WIT3 (wit3.fbk.eu) links to it; then name it by ARCHIVE=file"
}

check_md5() {
    local sum
    [[ -n $2 ]] || return 0
    sum=$(md5sum <"$1" | cut -d ' ' -f 1)
    [[ $sum == "$2" ]] || die "$3: not the archive expected (md5 $sum, not $2); $(how_to_fetch)"
}

if [[ -z $ARCHIVE ]]; then
    ARCHIVE=$OUT/iwslt$EDITION.archive
    if [[ ! -f $ARCHIVE ]]; then
        [[ -n ${ARCHIVE_URL:-} ]] || ARCHIVE_MD5=${ARCHIVE_MD5:-$md5}
        url=${ARCHIVE_URL:-$url}
        claim_raw
        say "fetch: $url"
        download "$url" >"$OUT/archive.part.$$" || die "$url: download failed; is there a network? Or $(how_to_fetch)"
        check_md5 "$OUT/archive.part.$$" "$ARCHIVE_MD5" "$url"
        case $(od -An -N2 -tx1 "$OUT/archive.part.$$") in
            " 1f 8b" | " 50 4b") ;;
            *) die "$url: not a .tgz or .zip archive but, as it seems, a web page; $(how_to_fetch)" ;;
        esac
        mv "$OUT/archive.part.$$" "$ARCHIVE"
    fi
else
    [[ -r $ARCHIVE ]] || die "ARCHIVE=$ARCHIVE: no such file or folder"
    ARCHIVE=$(realpath "$ARCHIVE")
    [[ ! -f $ARCHIVE ]] || check_md5 "$ARCHIVE" "$ARCHIVE_MD5" "ARCHIVE=$ARCHIVE"
fi

# The checksum of an archive, or of what a folder has of it.
checksum() {
    local names=(-name 'train.tags.*' -o -name 'IWSLT*.xml' -o -name '*.tgz' -o -name '*.tar.gz' -o -name '*.zip')
    if [[ -f $ARCHIVE ]]; then
        sha256sum <"$ARCHIVE"
    else
        (cd "$ARCHIVE" && find . -type f \( "${names[@]}" \) -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum) | sha256sum
    fi
}

settings="EDITION=$EDITION
SOURCE_LANG=$SOURCE_LANG
TARGET_LANG=$TARGET_LANG
VALID=$VALID
TEST=$TEST
sha256 ARCHIVE=$(checksum | cut -d ' ' -f 1)"
read -ra valid_sets <<<"$VALID"
read -ra test_sets <<<"$TEST"
say "prepare: IWSLT'$EDITION $SOURCE_LANG-$TARGET_LANG, validation on $VALID, test on $TEST"
unpack_raw "$settings" python "$ROOT/scripts/extract_iwslt.py" --edition "$EDITION" --source-lang "$SOURCE_LANG" \
    --target-lang "$TARGET_LANG" --valid "${valid_sets[@]}" --test "${test_sets[@]}" -- "$ARCHIVE"
export CORPUS="IWSLT'$EDITION $SOURCE_LANG-$TARGET_LANG, validation on $VALID, test on $TEST"
prepare_raw
