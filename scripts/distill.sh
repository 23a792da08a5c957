#!/usr/bin/env bash
# Sequence-level distillation (Kim and Rush 2016): trains an autoregressive teacher, translates the training set with it, and
# trains a student on that. Each stage goes on where it stopped; what stands is not done again.
#   DATA=prepared-folder OUT=folder bash scripts/distill.sh [fairseq-train's flags for the student]
# DATA                folder made by prepare_parallel.sh
# OUT                 folder for teacher/, shards/, data/ (prepared like DATA, with the teacher's targets) and student/
# TEACHER             a checkpoint trained on DATA's dictionaries (trained here)
# TEACHER_ARCH        its architecture (momentum_transformer_multi30k)
# TEACHER_FLAGS       fairseq-train's flags for it ("--attention softmax --dropout 0.2", shared embeddings where DATA's
#                     dictionary is joined)
# TEACHER_MAX_UPDATE, TEACHER_MAX_TOKENS, TEACHER_TOTAL_TOKENS, TEACHER_LR, TEACHER_WARMUP, TEACHER_VALIDATE_EVERY
#                     as train.sh's, for the teacher (6000, 4096, none, 1e-3, 1000, 500); the best BLEU in validation teaches
# TEACHER_SEED        its seed, whatever the student's (1)
# BEAM, LENPEN        beam (4), and exponent of the length that scores are divided by (1)
# SHARDS              parts in which the training set is translated; a kill loses one a worker (10)
# WORKERS             processes that translate side by side (1); on GPUs, one or more on each
# DECODE_TOKENS       source tokens a batch when translating (4096); the translation doesn't depend on it
# STUDENT             0 ends when OUT/data stands: train.sh trains students on it (1)
# All of train.sh's variables are the student's; DEVICE, GPUS, PROCESSES, PRECISION and USER_DIR also the teacher's.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/workers.sh"

DATA=${DATA:-}
OUT=${OUT:-}
TEACHER=${TEACHER:-}
TEACHER_ARCH=${TEACHER_ARCH:-momentum_transformer_multi30k}
TEACHER_MAX_UPDATE=${TEACHER_MAX_UPDATE:-6000}
TEACHER_MAX_TOKENS=${TEACHER_MAX_TOKENS:-4096}
TEACHER_SEED=${TEACHER_SEED:-1}
TEACHER_TOTAL_TOKENS=${TEACHER_TOTAL_TOKENS:-}
TEACHER_LR=${TEACHER_LR:-1e-3}
TEACHER_WARMUP=${TEACHER_WARMUP:-1000}
TEACHER_VALIDATE_EVERY=${TEACHER_VALIDATE_EVERY:-500}
BEAM=${BEAM:-4}
LENPEN=${LENPEN:-1}
SHARDS=${SHARDS:-10}
WORKERS=${WORKERS:-1}
DECODE_TOKENS=${DECODE_TOKENS:-4096}
STUDENT=${STUDENT:-1}

checksum() { sha256sum <"$1" | cut -d ' ' -f 1; }

check_settings() {
    [[ -n $DATA ]] || die "DATA is not set: name the folder that prepare_parallel.sh made"
    [[ -n $OUT ]] || die "OUT is not set: name the folder to write to"
    [[ -d $DATA/data-bin && -d $DATA/bpe && -f $DATA/settings.txt && -f $DATA/report.json ]] ||
        die "DATA=$DATA: not a whole folder of prepare_parallel.sh (data-bin, bpe, settings.txt, report.json)"
    [[ $(setting DISTILLED) != 1 ]] || die "DATA=$DATA is distilled already; name the folder of prepare_parallel.sh"
    [[ -z $TEACHER || -f $TEACHER ]] || die "TEACHER=$TEACHER: no such file"
    local name
    for name in TEACHER_MAX_UPDATE BEAM SHARDS WORKERS DECODE_TOKENS; do require_count "$name"; done
    [[ $LENPEN =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "LENPEN=$LENPEN: must be a number, not negative"
    require_flag STUDENT
    DATA=$(realpath "$DATA")
    source_lang=$(setting SOURCE_LANG) target_lang=$(setting TARGET_LANG)
    if [[ -z ${TEACHER_FLAGS+given} ]]; then
        TEACHER_FLAGS="--attention softmax --dropout 0.2"
        [[ $(setting JOINED_DICTIONARY) != 1 ]] || TEACHER_FLAGS+=" --share-all-embeddings"
    fi
    read -ra teacher_flags <<<"$TEACHER_FLAGS"
}

# All that OUT/data depends on, one a line.
describe_settings() {
    local name
    for name in "$DATA"/bpe/* "$DATA"/data-bin/dict.*.txt "$DATA"/ref.* "$DATA/codes"; do
        printf 'sha256 %s=%s\n' "${name#"$DATA"/}" "$(checksum "$name")"
    done
    if [[ -n $TEACHER ]]; then
        printf 'sha256 TEACHER=%s\n' "$(checksum "$TEACHER")"
    else
        for name in TEACHER_ARCH TEACHER_FLAGS TEACHER_MAX_UPDATE TEACHER_MAX_TOKENS TEACHER_TOTAL_TOKENS TEACHER_LR TEACHER_WARMUP \
            TEACHER_VALIDATE_EVERY TEACHER_SEED; do
            printf '%s=%s\n' "$name" "${!name}"
        done
    fi
    for name in BEAM LENPEN SHARDS; do printf '%s=%s\n' "$name" "${!name}"; done
    [[ -z $PLUGIN_NAME ]] || printf 'USER_DIR=%s\n' "$PLUGIN_NAME"
}

# Keeps OUT to one run and to one group of settings.
claim_out() {
    mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"
    OUT=$(realpath "$OUT")
    exec 9>"$OUT/.lock"
    flock -n 9 || die "OUT=$OUT: another run is distilling there; wait for it or name another folder"
    local settings difference
    settings=$(describe_settings)
    if [[ -f $OUT/settings.txt ]]; then
        difference=$(diff "$OUT/settings.txt" <(printf '%s\n' "$settings") | grep '^[<>]') || true
        [[ -z $difference ]] || die "OUT=$OUT was begun with other settings (< then, > now); remove it or name another folder"$'\n'"$difference"
    fi
    printf '%s\n' "$settings" >"$OUT/settings.txt.part"
    mv "$OUT/settings.txt.part" "$OUT/settings.txt"
}

train_teacher() {
    say "distill: training the teacher, $TEACHER_ARCH (1 of 4)"
    local folder=$OUT/teacher
    DATA=$DATA OUT=$folder TASK=translation ARCH=$TEACHER_ARCH CRITERION='' MAX_UPDATE=$TEACHER_MAX_UPDATE \
        MAX_TOKENS=$TEACHER_MAX_TOKENS TOTAL_TOKENS=$TEACHER_TOTAL_TOKENS LR=$TEACHER_LR WARMUP=$TEACHER_WARMUP \
        VALIDATE_EVERY=$TEACHER_VALIDATE_EVERY SEED=$TEACHER_SEED bash "$ROOT/scripts/train.sh" "${teacher_flags[@]}" ||
        die "the teacher's training failed (see above); the same command goes on"
    [[ -f $OUT/teacher/checkpoint_best.pt ]] || die "the teacher's training left no checkpoint_best.pt: validate before it ends"
    touch "$OUT/teacher/trained"
}

translate() {
    say "distill: translating the training set, beam $BEAM, $SHARDS shards, $WORKERS at a time (2 of 4)"
    local worker options=()
    [[ ${DEVICE:-auto} != cpu ]] || options+=(--cpu)
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) > WORKERS ? $(nproc) / WORKERS : 1))}
    export OMP_NUM_THREADS
    for ((worker = 0; worker < WORKERS; worker++)); do
        start_worker "$worker" "" python "$ROOT/scripts/decode_shards.py" "$DATA" "$TEACHER" "$OUT/shards" \
            --source-lang "$source_lang" --target-lang "$target_lang" --shards "$SHARDS" --worker "$worker" --beam "$BEAM" \
            --lenpen "$LENPEN" --max-tokens "$DECODE_TOKENS" "${PLUGIN[@]}" "${options[@]}"
    done
    wait_for_workers || die "translating failed (see above); the same command goes on with the shards that are missing"
    rm -f "$OUT"/shards/*.lock
}

binarise() {
    say "distill: binarising with the same dictionaries (3 of 4)"
    rm -rf "$OUT"/data.part
    local part=$OUT/data.part language
    python "$ROOT/scripts/distilled_text.py" "$DATA" "$OUT/shards" "$part" --source-lang "$source_lang" \
        --target-lang "$target_lang" --shards "$SHARDS" --teacher-checksum "$(checksum "$TEACHER")"
    if ! fairseq-preprocess --source-lang "$source_lang" --target-lang "$target_lang" --trainpref "$part/bpe/train" \
        --srcdict "$DATA/data-bin/dict.$source_lang.txt" --tgtdict "$DATA/data-bin/dict.$target_lang.txt" \
        --destdir "$part/data-bin" --workers "$WORKERS" >"$OUT/preprocess.log" 2>&1; then
        tail -n 5 "$OUT/preprocess.log" >&2
        die "fairseq-preprocess failed; its messages are in $OUT/preprocess.log"
    fi
    # fairseq's log names folders of this machine and of this run.
    rm -f "$OUT/preprocess.log" "$part/data-bin/preprocess.log"
    for language in "$source_lang" "$target_lang"; do
        cmp "$part/data-bin/dict.$language.txt" "$DATA/data-bin/dict.$language.txt" || die "dict.$language.txt changed in binarising"
    done
    cp "$DATA"/data-bin/{valid,test}.* "$part/data-bin"
    cp "$DATA"/ref.* "$DATA/codes" "$part"
    mv "$part" "$OUT/data"
}

check_settings
activate
claim_out
if [[ -z $TEACHER ]]; then
    [[ -f $OUT/teacher/trained ]] || train_teacher
    TEACHER=$OUT/teacher/checkpoint_best.pt
fi
if [[ ! -d $OUT/data ]]; then
    translate
    binarise
fi
say "distill: $OUT/data stands"
if [[ $STUDENT == 1 ]]; then
    say "distill: training the student (4 of 4)"
    distilled=$OUT/data student=$OUT/student
    DATA=$distilled OUT=$student bash "$ROOT/scripts/train.sh" "$@"
fi
