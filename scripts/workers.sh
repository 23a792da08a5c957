# shellcheck shell=bash
# Sourced by scripts that run workers side by side, on this machine: all end well, or the first that fails ends the others.

declare -A running=()  # worker → process
trap stop_workers EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_worker NUMBER LOG COMMAND…: in the background, its output to the file LOG, or to the terminal where LOG is empty.
# It dies with this script, even where the script is killed and can say nothing more.
start_worker() {
    local number=$1 log=$2
    shift 2
    if [[ -n $log ]]; then
        setpriv --pdeathsig KILL "$@" >"$log" 2>&1 &
    else
        setpriv --pdeathsig KILL "$@" &
    fi
    running[$number]=$!
}

# Returns when all workers have ended well; where one has not, prints which and how on stderr, ends the others and fails.
wait_for_workers() {
    local number status failures=
    while ((${#running[@]})); do
        for number in "${!running[@]}"; do
            if ! kill -0 "${running[$number]}" 2>/dev/null; then
                status=0
                wait "${running[$number]}" || status=$?
                unset "running[$number]"
                ((status == 0)) || failures+="${failures:+, }worker $number $(describe_status "$status")"
            fi
        done
        if [[ -n $failures ]]; then
            stop_workers
            printf '%s; the others were stopped\n' "$failures" >&2
            return 1
        fi
        sleep 0.2
    done
}

# Ends what runs: asked to first, after 10 seconds by force.
stop_workers() {
    local number tries
    ((${#running[@]})) || return 0
    kill "${running[@]}" 2>/dev/null || true
    for ((tries = 0; tries < 50; tries++)); do
        kill -0 "${running[@]}" 2>/dev/null || break
        sleep 0.2
    done
    kill -KILL "${running[@]}" 2>/dev/null || true
    for number in "${!running[@]}"; do
        wait "${running[$number]}" 2>/dev/null || true
    done
    running=()
}
