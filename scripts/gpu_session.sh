# shellcheck shell=bash
# Sourced after common.sh by the examples' gpu.sh, for a machine with one GPU that is lent for some minutes a call, may be without
# a network, and takes back a few files: an environment from wheels, a deadline, jobs side by side, results in one archive.
# WHEELS        folder of wheels to install first (none)
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
    timeout "$((seconds > 0 ? seconds : 1))" "$@"  # 0 would be no limit
}

# side_by_side LOGS FUNCTION RESERVE JOB…: calls FUNCTION with the words of each JOB, SIDE_BY_SIDE at a time, its output in
# LOGS/<JOB with dashes>.log. No job starts with fewer than RESERVE seconds left. Says what failed and what was left.
side_by_side() {
    local logs=$1 function=$2 reserve=$3 job words failed=0 left=0
    shift 3
    mkdir -p "$logs"
    for job in "$@"; do
        while (($(jobs -rp | wc -l) >= SIDE_BY_SIDE)); do wait -n || failed=$((failed + 1)); done
        if (($(seconds_left) < reserve)); then
            left=$((left + 1))
            continue
        fi
        read -ra words <<<"$job"
        "$function" "${words[@]}" >>"$logs/${job// /-}.log" 2>&1 &
    done
    while (($(jobs -p | wc -l))); do wait -n || failed=$((failed + 1)); done
    ((failed == 0)) || say "$function: $failed failed; see the logs in $logs"
    ((left == 0)) || say "$function: no time for $left of $#; call again"
}

# pack FILE FOLDER: the JSON files and logs under FOLDER in one archive.
pack() {
    mkdir -p "$2"
    (cd "$2" && find . -name "*.json" -o -name "*.log" -o -name "attention.*" | LC_ALL=C sort | tar -czf "$1.part" -T -)
    mv "$1.part" "$1"
}

# results_of FOLDER ROW…: the JSON files of each row in turn, one a line.
results_of() {
    local folder=$1 row
    shift
    for row in "$@"; do find "$folder" -name "$row-seed*.json" 2>/dev/null | LC_ALL=C sort; done
}
