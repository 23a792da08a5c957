#!/usr/bin/env bash
# On a machine with one GPU: Table 5 at the paper's size on Multi30k and ted_mix, distilled, several seeds side by side; then the
# speeds of all rows and their teachers in bfloat16. Called again, it goes on; it says so when all is done.
#   bash examples/iwslt16_en_de/gpu.sh
# In calls of ten minutes, the wheels and both prepared.tar.gz carried; the first call makes the teachers and hardly more:
#   WHEELS=.whl MOMENTUM_REVISION=… MAX_UPDATE=2000 TEACHER_MAX_UPDATE=2000 bash examples/iwslt16_en_de/gpu.sh
# OUT          folder for what is brought back, 2 files and 3 a corpus (results/gpu beside this script)
# CORPORA      ("multi30k ted_mix"); where there is no network RUNS/<corpus>/prepared must stand, or prepared.tar.gz beside it, which
#              is a third as large: tar -czf prepared.tar.gz --exclude=raw --exclude=tokenised prepared
# SEEDS        trainings of each row ("1 2 3")
# STAGES       what to do, in this order ("teachers rows scores speeds table")
# RUNS         folder for data, checkpoints and JSON (runs in the repository)
# MAX_UPDATE   updates of each row (8000); MAX_MINUTES a call for them (until three minutes before its end)
# LR, WARMUP, VALIDATE_EVERY, TEACHER_MAX_UPDATE, TEACHER_WARMUP, WORKERS, DECODE_TOKENS   (5e-4, 500, 1000, 4000, 500, 4, 16384)
# SIZE, PRESET, PRECISION, MAX_TOKENS, TOTAL_TOKENS, TEACHER_…   see run.sh
# WHEELS, CALL_MINUTES, SIDE_BY_SIDE                             see scripts/gpu_session.sh
# A training holds at most 2^28 logits whole, about 3 GB with what belongs to them, and takes more by blocks of them.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
source "$ROOT/scripts/gpu_session.sh"

OUT=${OUT:-$ROOT/examples/iwslt16_en_de/results/gpu}
CORPORA=${CORPORA:-multi30k ted_mix}
SEEDS=${SEEDS:-1 2 3}
STAGES=${STAGES:-teachers rows scores speeds table}
export RUNS=${RUNS:-$ROOT/runs} SIZE=${SIZE:-paper} MAX_UPDATE=${MAX_UPDATE:-8000} LR=${LR:-5e-4} WARMUP=${WARMUP:-500}
export VALIDATE_EVERY=${VALIDATE_EVERY:-1000} TEACHER_MAX_UPDATE=${TEACHER_MAX_UPDATE:-4000} TEACHER_WARMUP=${TEACHER_WARMUP:-500}
export WORKERS=${WORKERS:-4} DECODE_TOKENS=${DECODE_TOKENS:-16384}
rows=(softmax linear momentum connection adaptive)
results=$RUNS/gpu-$SIZE
RUN=$ROOT/examples/iwslt16_en_de/run.sh
read -ra corpora <<<"$CORPORA"
read -ra seeds <<<"$SEEDS"
start_session
mkdir -p "$OUT" "$results"
OUT=$(realpath "$OUT")

# Jobs: a corpus, a row and a seed each.
trainings=()
for corpus in "${corpora[@]}"; do
    for seed in "${seeds[@]}"; do
        for row in "${rows[@]}"; do trainings+=("$corpus $row $seed"); done
    done
done

teacher() {
    unpack_carried "$RUNS/$1/prepared"
    CORPUS=$1 ROW=teacher RESULTS=$results/$1 SPEED_RUNS=0 before_deadline bash "$RUN"
}

train_row() {
    local minutes
    minutes=$(minutes_to_train)
    CORPUS=$1 ROW=$2 SEED=$3 STAGES=train MAX_MINUTES=$minutes OMP_NUM_THREADS=1 before_deadline bash "$RUN"
}

score_row() {
    CORPUS=$1 ROW=$2 SEED=$3 RESULTS=$results/$1 STAGES=evaluate SPEED_RUNS=0 OMP_NUM_THREADS=1 before_deadline bash "$RUN"
}

time_row() {
    CORPUS=$1 ROW=$2 SEED=$3 RESULTS=$results/$1-bfloat16 STAGES=evaluate DTYPE=bfloat16 SPEED_RUNS=3 \
        SCORE_FLAGS="--splits test --lengths predicted --speed-sentences 40" before_deadline bash "$RUN"
}

stands() { [[ -d $RUNS/$1/distilled-$SIZE/data ]]; }

teachers() {
    side_by_side "$results/logs/teachers" teacher 60 "${corpora[@]}"
    for corpus in "${corpora[@]}"; do
        stands "$corpus" || say "teachers: $corpus is not distilled yet; call again, or see $results/logs/teachers"
    done
}

# The trainings whose data stands and that have a checkpoint where the file $1 is named.
ready() {
    local job words
    for job in "${trainings[@]}"; do
        read -ra words <<<"$job"
        if stands "${words[0]}" && [[ $# == 0 || -f $RUNS/${words[0]}/$SIZE-${words[1]}-seed${words[2]}/$1 ]]; then
            printf '%s\n' "$job"
        fi
    done
}

rows() {
    mapfile -t list < <(ready)
    side_by_side "$results/logs/rows" train_row 210 "${list[@]}"
}

scores() {
    mapfile -t list < <(ready checkpoint_best.pt)
    side_by_side "$results/logs/scores" score_row 60 "${list[@]}"
}

# One after the other: side by side they would measure each other.
speeds() {
    local list=() corpus job
    for corpus in "${corpora[@]}"; do
        [[ ! -f $RUNS/$corpus/distilled-$SIZE/teacher/trained ]] || list+=("$corpus teacher 1")
    done
    mapfile -t -O "${#list[@]}" list < <(ready checkpoint_best.pt | grep " ${seeds[0]}\$")
    SIDE_BY_SIDE=1 side_by_side "$results/logs/speeds" time_row 90 "${list[@]}"
}

# A table with pictures for each corpus, and all JSON files and logs in one archive.
table() {
    local corpus folder files done=0
    for corpus in "${corpora[@]}"; do
        for folder in "$results/$corpus" "$results/$corpus-bfloat16"; do
            mapfile -t files < <(results_of "$folder" "${rows[@]}" teacher)
            ((${#files[@]})) || continue
            local baseline=()
            [[ ! -f $folder/linear-seed${seeds[0]}.json ]] || baseline=(--baseline linear)
            python "$ROOT/scripts/table.py" "${files[@]}" "${baseline[@]}" --plot "$OUT/${folder##*/}.png" \
                >"$results/${folder##*/}.md" || say "table: failed for $folder; its JSON files are brought back all the same"
        done
        [[ ! -d $results/$corpus ]] || done=$((done + $(find "$results/$corpus" -name '*-seed*.json' | wc -l)))
        stands "$corpus" || continue
        tar -C "$RUNS/$corpus/distilled-$SIZE" --exclude bpe -czf "$OUT/distilled-$corpus.tar.gz.part" data
        mv "$OUT/distilled-$corpus.tar.gz.part" "$OUT/distilled-$corpus.tar.gz"
    done
    find "$results" -maxdepth 1 -name '*.md' -print0 | LC_ALL=C sort -z | xargs -0 -r cat >"$OUT/table.md"
    pack "$OUT/results.tar.gz" "$results"
    say "gpu: $done of $((${#trainings[@]} + ${#corpora[@]})) results in $OUT; $(seconds_left) seconds left"
}

run_stages teachers rows scores speeds table
