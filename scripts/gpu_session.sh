# shellcheck shell=bash
# Sourced after common.sh by the examples' gpu.sh, for a machine with one GPU that is lent for some minutes a call, may be without
# a network, empties OUT before each call and takes back a few files of it: an environment from wheels, a deadline, stages that fail
# alone, jobs side by side, results in one archive. What a later call goes on from lies in RUNS, never in OUT.
#
# Where it is lent for half an hour in calls of ten minutes: the same command three times with CALL_MINUTES=9, one right behind the
# other, since the machine may be given back soon after a call, with all that lies on it. Every call carries the same ignored folders
# along, so that a fresh machine can begin anew: the wheels (22 MB, of requirements.txt's versions: ve-fairseq, hydra-core, omegaconf,
# subword-nmt, sacremoses, tensorboardX; and bitarray and antlr4-python3-runtime, which two of them ask for; the machine has the rest)
# and the data that a gpu.sh names; never a folder that is trained in, which would be put back. With 15 trainings side by side nobody
# has measured the updates a second; a schedule holds once begun, so that a short test with other RUNS goes before (`ups` in each
# train.log).
#
# WHEELS        folder of wheels to install first; named again where the call goes on, though it may be gone by then (none)
# MOMENTUM_REVISION   this tree's commit, for the results, where what was sent is no git checkout (unknown)
# CALL_MINUTES  minutes that this call may take (9)
# SIDE_BY_SIDE  trainings at a time (15)
WHEELS=${WHEELS:-}
CALL_MINUTES=${CALL_MINUTES:-9}
SIDE_BY_SIDE=${SIDE_BY_SIDE:-15}
require_count CALL_MINUTES
require_count SIDE_BY_SIDE
deadline=$((SECONDS + CALL_MINUTES * 60))

# Puts an environment on PATH: of the machine's own Python and the wheels, where there are any.
start_session() {
    if [[ -n $WHEELS ]]; then
        export MOMENTUM_ENV=$ROOT/.venv-gpu PYTHONPATH=$ROOT/.venv-gpu/site
        if [[ ! -f $MOMENTUM_ENV/installed ]]; then
            rm -rf "$MOMENTUM_ENV"
            mkdir -p "$MOMENTUM_ENV/bin"
            python3 -m pip install -q --no-index --no-deps --target "$MOMENTUM_ENV/site" "$WHEELS"/*.whl
            local tool
            for tool in "$MOMENTUM_ENV"/site/bin/*; do ln -sf "$tool" "$MOMENTUM_ENV/bin/"; done
            # Not a link: a virtual environment's interpreter finds its packages by its own path.
            printf '#!/bin/sh\nexec %q "$@"\n' "$(command -v python3)" >"$MOMENTUM_ENV/bin/python"
            chmod +x "$MOMENTUM_ENV/bin/python"
            touch "$MOMENTUM_ENV/installed"
        fi
    fi
    activate
}

seconds_left() { echo $((deadline - SECONDS)); }

# before_deadline COMMAND…: it and all that it starts end before this call does.
before_deadline() {
    local seconds
    seconds=$(($(seconds_left) - 5))
    timeout --kill-after=5 "$((seconds > 0 ? seconds : 1))" "$@"  # 0 would be no limit
}

# minutes_to_train: MAX_MINUTES, or as many as leave three for what a training does before it counts, a last validation and scores.
minutes_to_train() { printf '%s\n' "${MAX_MINUTES:-$(awk "BEGIN { print ($(seconds_left) - 180) / 60 }")}"; }

# run_stages STAGE…: those of them that STAGES names, in its order, each in a shell of its own: one that fails ends there, and the
# others are run all the same.
run_stages() {
    local stage status broken=()
    for stage in $STAGES; do
        [[ " $* " == *" $stage "* ]] || die "STAGES: no stage $stage; there are $*"
    done
    for stage in $STAGES; do
        set +e
        (set -e && "$stage")
        status=$?
        set -e
        ((status == 0)) || broken+=("$stage")
    done
    ((${#broken[@]} == 0)) || die "${broken[*]}: failed (see above); what succeeded is in $OUT"
}

# unpack_carried FOLDER: where it doesn't stand, its archive FOLDER.tar.gz does; the folder is the archive's one member.
unpack_carried() {
    [[ ! -d $1 && -f $1.tar.gz ]] || return 0
    local part=$1.part
    rm -rf "$part"
    mkdir "$part"
    tar -xzf "$1.tar.gz" -C "$part"
    mv "$part/${1##*/}" "$1"
    rmdir "$part"
}

# side_by_side LOGS FUNCTION RESERVE JOB…: calls FUNCTION with the words of each JOB, SIDE_BY_SIDE at a time, its output in
# LOGS/<JOB with dashes>.log; those that failed the last time come last. No job starts with fewer than RESERVE seconds left. Names
# what failed and says what was left.
side_by_side() {
    local logs=$1 function=$2 reserve=$3 job words i status names new=() again=() started=() pids=() broken=()
    shift 3
    mkdir -p "$logs"
    for job in "$@"; do
        if has_failed "$logs" "$job"; then again+=("$job"); else new+=("$job"); fi
    done
    for job in "${new[@]}" "${again[@]}"; do
        while (($(jobs -rp | wc -l) >= SIDE_BY_SIDE)); do wait -n || true; done
        (($(seconds_left) >= reserve)) || break
        rm -f "$logs/${job// /-}.failed"
        read -ra words <<<"$job"
        "$function" "${words[@]}" >>"$logs/${job// /-}.log" 2>&1 &
        started+=("$job") pids+=("$!")
    done
    for i in "${!pids[@]}"; do
        status=0
        wait "${pids[i]}" || status=$?
        ((status == 0)) || broken+=("${started[i]}")
        # What before_deadline ended only lacked time.
        ((status == 0 || status == 124 || status == 137)) || touch "$logs/${started[i]// /-}.failed"
    done
    if ((${#broken[@]})); then
        printf -v names ', %s' "${broken[@]}"
        say "$function: ${#broken[@]} failed (${names:2}); see the logs in $logs"
    fi
    ((${#started[@]} == $#)) || say "$function: no time for $(($# - ${#started[@]})) of $#; call again"
}

# has_failed LOGS JOB: when side_by_side last ran it, and not for want of time.
has_failed() { [[ -f $1/${2// /-}.failed ]]; }

# pack FILE FOLDER: the JSON files, tables, pictures and logs under FOLDER in one archive.
pack() {
    mkdir -p "$2"
    (cd "$2" && find . -type f -regex '.*\.\(json\|md\|png\|txt\|log\)' | LC_ALL=C sort | tar -czf "$1.part" -T -)
    mv "$1.part" "$1"
}

# results_of FOLDER ROW…: the JSON files of each row in turn, one a line.
results_of() {
    local folder=$1 row
    shift
    for row in "$@"; do find "$folder" -name "$row-seed*.json" 2>/dev/null | LC_ALL=C sort; done
}
