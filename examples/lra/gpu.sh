#!/usr/bin/env bash
# On a machine with one GPU: Table 4 by the full protocol, most valuable first, trainings side by side: ListOps for every kind, then
# Text, Image and Pathfinder; softmax, linear, momentum and adaptive with every seed, other kinds with the first on ListOps alone.
# Called again, it goes on; it says so when all is done.
#   bash examples/lra/gpu.sh
# In calls of ten minutes, the wheels and text's files (18 MB, in .lra/text) carried; ListOps alone has 19 trainings:
#   WHEELS=.whl MOMENTUM_REVISION=… DATA=.lra TASKS="listops text" bash examples/lra/gpu.sh
# OUT          folder for what is brought back, 2 files (results/gpu beside this script)
# TASKS        ("listops text image pathfinder")
# DATA         folder of the published files of text and image, in DATA/text and DATA/image; ListOps and Pathfinder are generated.
#              A set that stands in RUNS is taken; where none can be made its task is left out, and the others go on. COUNTS: fewer
#              examples, see scripts/prepare_lra.sh
# KINDS        with every seed ("softmax linear momentum adaptive")
# MORE_KINDS   with the first seed on ListOps ("performer linformer reformer nystrom rfa transnormer symmetric_momentum")
# SEEDS        ("1 2 3")
# STAGES       what to do, in this order ("data train score table")
# RUNS         folder for sets, checkpoints and JSON (runs/lra in the repository)
# SIZE         paper; tiny, to try things out (paper)
# MAX_UPDATE, BATCH, PRECISION   see run.sh; MAX_MINUTES a call for the trainings (until three minutes before its end)
# WHEELS, CALL_MINUTES, SIDE_BY_SIDE   see scripts/gpu_session.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
source "$ROOT/scripts/gpu_session.sh"

OUT=${OUT:-$ROOT/examples/lra/results/gpu}
STAGES=${STAGES:-data train score table}
DATA=${DATA:-}
export SIZE=${SIZE:-paper} RUNS=${RUNS:-$ROOT/runs/lra}
read -ra tasks <<<"${TASKS:-listops text image pathfinder}"
read -ra kinds <<<"${KINDS:-softmax linear momentum adaptive}"
read -ra more_kinds <<<"${MORE_KINDS-performer linformer reformer nystrom rfa transnormer symmetric_momentum}"
read -ra seeds <<<"${SEEDS:-1 2 3}"
results=$RUNS/gpu-$SIZE
RUN=$ROOT/examples/lra/run.sh
start_session
mkdir -p "$OUT" "$results"
OUT=$(realpath "$OUT")

# Jobs: a task, a kind and a seed each.
trainings=()
for task in "${tasks[@]}"; do
    for seed in "${seeds[@]}"; do
        for kind in "${kinds[@]}"; do trainings+=("$task $kind $seed"); done
    done
    [[ $task == listops ]] || continue
    for kind in "${more_kinds[@]}"; do trainings+=("$task $kind ${seeds[0]}"); done
done

is_finished() { grep -qs 'num_updates: [0-9]* >= max_update' "$RUNS/$SIZE/$1/$2-seed$3/train.log"; }

# A set is made when its trainings' turn comes: before, it would take the time of those that are worth more. None waits for trainings
# that fail.
data() {
    local task files job words waiting=0 failed=0
    for task in "${tasks[@]}"; do
        if ((waiting >= SIDE_BY_SIDE)); then
            say "data: $task and what comes after it wait for $waiting trainings of the tasks before"
            break
        fi
        files=
        [[ $task == listops || $task == pathfinder ]] || files=${DATA:+$DATA/$task}
        [[ -f $RUNS/$task/meta.json ]] ||
            LRA_TASK=$task DATA=$files OUT=$RUNS SEED=1 before_deadline bash "$ROOT/scripts/prepare_lra.sh" || failed=1
        for job in "${trainings[@]}"; do
            read -ra words <<<"$job"
            [[ ${words[0]} != "$task" || ! -f $RUNS/$task/meta.json ]] || is_finished "${words[@]}" ||
                has_failed "$results/logs/train" "$job" || waiting=$((waiting + 1))
        done
    done
    return "$failed"
}

# The jobs whose set stands.
ready() {
    local job
    for job in "${trainings[@]}"; do
        [[ ! -f $RUNS/${job%% *}/meta.json ]] || printf '%s\n' "$job"
    done
}

train_one() {
    local minutes
    minutes=$(minutes_to_train)
    TASK=$1 ATTENTION=$2 SEED=$3 STAGES=train MAX_MINUTES=$minutes OMP_NUM_THREADS=1 before_deadline bash "$RUN"
}

score_one() {
    TASK=$1 ATTENTION=$2 SEED=$3 RESULTS=$results STAGES=score OMP_NUM_THREADS=1 before_deadline bash "$RUN"
}

# Then those of the sets that waited for them, as long as there is time.
train() {
    local list begun=0 failed=0
    while mapfile -t list < <(ready) && ((${#list[@]} > begun)); do
        side_by_side "$results/logs/train" train_one 210 "${list[@]:begun}"
        begun=${#list[@]}
        (($(seconds_left) < 210)) || [[ " $STAGES " != *" data "* ]] || data || failed=1
    done
    return "$failed"
}

# Those of finished trainings alone: the test set is scored once.
score() {
    local job words list=()
    for job in "${trainings[@]}"; do
        read -ra words <<<"$job"
        ! is_finished "${words[@]}" || list+=("$job")
    done
    side_by_side "$results/logs/score" score_one 60 "${list[@]}"
}

table() {
    local files
    mapfile -t files < <(results_of "$results" "${kinds[@]}" "${more_kinds[@]}")
    if ((${#files[@]})); then
        python "$ROOT/scripts/lra_table.py" "${files[@]}" | tee "$OUT/table.md" ||
            say "table: failed; the JSON files are brought back all the same"
    fi
    pack "$OUT/results.tar.gz" "$results"
    say "gpu: ${#files[@]} of ${#trainings[@]} results in $OUT; $(seconds_left) seconds left"
}

run_stages data train score table
