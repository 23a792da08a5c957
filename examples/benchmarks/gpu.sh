#!/usr/bin/env bash
# On a machine with one GPU: the tests of the Triton kernels natively, then their benchmark, then their error table.
# Called again, it redoes only what is missing or failed.
#   bash examples/benchmarks/gpu.sh
# OUT       folder for what is brought back (results/gpu beside this script)
# STAGES    what to do, in this order ("tests benchmark errors")
# SIZE      full; tiny, to try things out on any machine (full)
# SECONDS_A_LINE   time for each line of the benchmark's table (1)
# WHEELS, CALL_MINUTES   see scripts/gpu_session.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
source "$ROOT/scripts/gpu_session.sh"

OUT=${OUT:-$ROOT/examples/benchmarks/results/gpu}
STAGES=${STAGES:-tests benchmark errors}
SIZE=${SIZE:-full}
SECONDS_A_LINE=${SECONDS_A_LINE:-1}
[[ $SIZE == full || $SIZE == tiny ]] || die "SIZE=$SIZE: must be full or tiny"
start_session
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
options=()
[[ $SIZE == full ]] || options=(--quick)

# Without tests/conftest.py, which needs more than the kernels do.
tests() {
    local selection=()
    [[ $SIZE == full ]] || selection=(-k "choice or equation_12")
    (cd "$ROOT" && before_deadline python -m pytest -q --noconftest -p no:cacheprovider "${selection[@]}" \
        tests/ops/test_kernel_choice.py tests/ops/test_kernels_*.py) 2>&1 | tee "$OUT/tests.txt.part"
    mv "$OUT/tests.txt.part" "$OUT/tests.txt"
}

benchmark() {
    before_deadline python "$ROOT/scripts/benchmark_kernels.py" --seconds "$SECONDS_A_LINE" "${options[@]}" --out "$OUT" |
        tee "$OUT/kernels.txt.part"
    mv "$OUT/kernels.txt.part" "$OUT/kernels.txt"
}

errors() {
    before_deadline python "$ROOT/scripts/kernel_errors.py" "${options[@]}" --out "$OUT"
}

# Each in a shell of its own, so that a failure ends it, is said, and leaves the others to run.
failed=()
run_stage() {
    local file=$1
    shift
    if [[ -f $OUT/$file ]]; then
        say "gpu: $1: stands in $OUT/$file"
        return
    fi
    set +e
    (set -e && "$@")
    local status=$?
    set -e
    ((status == 0)) || failed+=("$1")
}

for stage in $STAGES; do
    case $stage in
        tests) run_stage tests.txt tests ;;
        benchmark) run_stage kernels.txt benchmark ;;
        errors) run_stage kernel_errors.md errors ;;
        *) die "STAGES: no stage $stage; there are tests, benchmark and errors" ;;
    esac
done
((${#failed[@]} == 0)) || die "${failed[*]}: failed (see above); what succeeded is in $OUT"
say "gpu: all is in $OUT; $(seconds_left) seconds left"
