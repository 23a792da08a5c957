#!/usr/bin/env bash
# On a machine with one GPU: the tests of the Triton kernels natively, their times, their error table, which tiles are quickest,
# and their times beside other libraries'. Called again, it redoes only what is missing or failed; tests and times that are to be
# taken anew, of other tiles, say, after `rm -r runs/benchmarks`.
#   bash examples/benchmarks/gpu.sh
# In calls of ten minutes: the first makes tests, times and errors and begins with the tiles, the second goes on to the libraries,
# the third is for other tiles; nothing but the wheels is carried.
#   WHEELS=.whl MOMENTUM_REVISION=… bash examples/benchmarks/gpu.sh
# OUT       folder for what is brought back, 7 files (results/gpu beside this script)
# STAGES    what to do, in this order ("tests benchmark errors tune libraries"); what they have made is brought back whatever fails
# RUNS      folder for what a later call goes on from (runs/benchmarks in the repository)
# SIZE      full; tiny, to try things out on any machine (full)
# TEST_SECONDS     time for all tests; what they have shown by then counts (180)
# SECONDS_A_LINE   time for each line of the benchmark's table (1)
# WHEELS, CALL_MINUTES   see scripts/gpu_session.sh; fla_core and einops among the wheels put flash-linear-attention into the table
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
source "$ROOT/scripts/gpu_session.sh"

OUT=${OUT:-$ROOT/examples/benchmarks/results/gpu}
STAGES=${STAGES:-tests benchmark errors tune libraries}
RUNS=${RUNS:-$ROOT/runs/benchmarks}
SIZE=${SIZE:-full}
TEST_SECONDS=${TEST_SECONDS:-180}
SECONDS_A_LINE=${SECONDS_A_LINE:-1}
[[ $SIZE == full || $SIZE == tiny ]] || die "SIZE=$SIZE: must be full or tiny"
require_count TEST_SECONDS
start_session
mkdir -p "$OUT" "$RUNS/gpu-$SIZE"
OUT=$(realpath "$OUT") RUNS=$(realpath "$RUNS")
results=$RUNS/gpu-$SIZE
options=()
[[ $SIZE == full ]] || options=(--quick)

stands() { [[ -f $results/$1 ]] && say "gpu: $1 stands, nothing to do"; }

# Without tests/conftest.py, which needs more than the kernels do. Almost all of their time goes into compiling, a kernel a
# processor: so every processor takes a share of the tests.
tests() {
    ! stands tests.txt || return 0
    local selection=(-m "not slow") shares logs=$RUNS/tests
    [[ $SIZE == full ]] || selection=(-k "equation_12 or unknown_name")
    shares=$(nproc)
    rm -rf "$logs"
    mkdir -p "$logs"
    cd "$ROOT"
    # Which tests/conftest.py would see to.
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || export TRITON_INTERPRET=1
    if ! python -m pytest -q --collect-only --noconftest -p no:cacheprovider "${selection[@]}" tests/ops/test_kernel_choice.py \
        tests/ops/test_kernels_*.py tests/ops/test_padding_free.py >"$logs/collected" 2>&1; then
        tail -n 40 "$logs/collected"
        return 1
    fi
    grep :: "$logs/collected" >"$logs/names"
    split --number="r/$shares" --additional-suffix=.share "$logs/names" "$logs/"
    # In the foreground, that is in the group of before_deadline's timeout, so that it ends them, too.
    # shellcheck disable=SC2016  # the inner shell expands them
    find "$logs" -name "*.share" -size +0 -print0 | before_deadline xargs -0 -P "$shares" -I {} bash -c '
        mapfile -t names <"$1"
        timeout --foreground "$2" python -m pytest -v --tb=short --noconftest -p no:cacheprovider "${names[@]}" >"$1.txt" 2>&1
    ' share {} "$TEST_SECONDS" || true  # what failed is counted below
    local passed failed total
    total=$(wc -l <"$logs/names")
    passed=$(cat "$logs"/*.txt | grep -cE "::.* (PASSED|SKIPPED)" || true)
    failed=$(cat "$logs"/*.txt | grep -cE "::.* (FAILED|ERROR)" || true)
    {
        cat "$logs"/*.txt
        echo "$total tests: $passed passed or skipped, $failed failed, $((total - passed - failed)) not run in $TEST_SECONDS s"
    } >"$results/tests.txt.part"
    tail -n 1 "$results/tests.txt.part"
    grep -hE "^(FAILED|ERROR) " "$results/tests.txt.part" | cut -c1-300 || true
    rm -r "$logs"
    # Kept, whatever they say: they are what the call is made for; but only a clean run stands.
    if ((passed < total)); then
        mv "$results/tests.txt.part" "$results/tests_failed.txt"
        return 1
    fi
    rm -f "$results/tests_failed.txt"
    mv "$results/tests.txt.part" "$results/tests.txt"
}

# What a script prints stays as FILE.part where it fails: what it has measured by then.
benchmark() {
    ! stands kernels.txt || return 0
    time_kernels --without-libraries
}

time_kernels() {
    before_deadline python "$ROOT/scripts/benchmark_kernels.py" --seconds "$SECONDS_A_LINE" "${options[@]}" --out "$results" "$@" |
        tee "$results/kernels.txt.part"
    mv "$results/kernels.txt.part" "$results/kernels.txt"
}

# The same once more and flash-linear-attention, which first searches for tiles for minutes.
libraries() {
    if grep -qs '"kind": "fla' "$results/kernels.json"; then
        say "gpu: kernels.txt has other libraries, nothing to do"
    elif ! python -c 'import fla' 2>/dev/null; then
        say "libraries: flash-linear-attention isn't installed; name a folder with fla_core and einops by WHEELS"
    else
        time_kernels
    fi
}

errors() {
    ! stands kernel_errors.md || return 0
    before_deadline python "$ROOT/scripts/kernel_errors.py" "${options[@]}" --out "$results"
}

tune() {
    ! stands tune_kernels.txt || return 0
    before_deadline python "$ROOT/scripts/tune_kernels.py" "${options[@]}" --out "$results" | tee "$results/tune_kernels.txt.part"
    mv "$results/tune_kernels.txt.part" "$results/tune_kernels.txt"
}

bring_back() { find "$results" -type f -exec cp -t "$OUT" {} +; }

trap bring_back EXIT
run_stages tests benchmark errors tune libraries
say "gpu: all is in $OUT; $(seconds_left) seconds left"
