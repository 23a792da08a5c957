#!/usr/bin/env bash
# On a machine with one GPU: the tests of the Triton kernels natively, their error table, their times beside other libraries',
# and which tiles are quickest. Called again, it redoes only what is missing or failed.
#   bash examples/benchmarks/gpu.sh
# OUT       folder for what is brought back (results/gpu beside this script)
# STAGES    what to do, in this order ("tests errors benchmark tune")
# SIZE      full; tiny, to try things out on any machine (full)
# TEST_SECONDS     time for all tests; what they have shown by then counts (180)
# SECONDS_A_LINE   time for each line of the benchmark's table (1)
# WHEELS, CALL_MINUTES   see scripts/gpu_session.sh; fla_core and einops among the wheels put flash-linear-attention into the table
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
source "$ROOT/scripts/gpu_session.sh"

OUT=${OUT:-$ROOT/examples/benchmarks/results/gpu}
STAGES=${STAGES:-tests errors benchmark tune}
SIZE=${SIZE:-full}
TEST_SECONDS=${TEST_SECONDS:-180}
SECONDS_A_LINE=${SECONDS_A_LINE:-1}
[[ $SIZE == full || $SIZE == tiny ]] || die "SIZE=$SIZE: must be full or tiny"
require_count TEST_SECONDS
start_session
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
options=()
[[ $SIZE == full ]] || options=(--quick)

# Without tests/conftest.py, which needs more than the kernels do. Almost all of their time goes into compiling, a kernel a
# processor: so every processor takes a share of the tests.
tests() {
    local selection=(-m "not slow") shares logs=$OUT/tests
    [[ $SIZE == full ]] || selection=(-k "equation_12 or unknown_name")
    shares=$(nproc)
    rm -rf "$logs"
    mkdir -p "$logs"
    cd "$ROOT"
    # Which tests/conftest.py would see to.
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || export TRITON_INTERPRET=1
    python -m pytest -q --collect-only --noconftest -p no:cacheprovider "${selection[@]}" \
        tests/ops/test_kernel_choice.py tests/ops/test_kernels_*.py tests/ops/test_padding_free.py | grep :: >"$logs/names"
    split --number="r/$shares" --additional-suffix=.share "$logs/names" "$logs/"
    # shellcheck disable=SC2016  # the inner shell expands them
    find "$logs" -name "*.share" -size +0 -print0 | before_deadline xargs -0 -P "$shares" -I {} bash -c '
        mapfile -t names <"$1"
        timeout "$2" python -m pytest -v --tb=short --noconftest -p no:cacheprovider "${names[@]}" >"$1.txt" 2>&1
    ' share {} "$TEST_SECONDS" || true  # what failed is counted below
    local passed failed total
    total=$(wc -l <"$logs/names")
    passed=$(cat "$logs"/*.txt | grep -cE "::.* (PASSED|SKIPPED)" || true)
    failed=$(cat "$logs"/*.txt | grep -cE "::.* (FAILED|ERROR)" || true)
    {
        cat "$logs"/*.txt
        echo "$total tests: $passed passed or skipped, $failed failed, $((total - passed - failed)) not run in $TEST_SECONDS s"
    } >"$OUT/tests.txt.part"
    tail -n 1 "$OUT/tests.txt.part"
    grep -hE "^(FAILED|ERROR) " "$OUT/tests.txt.part" | cut -c1-300 || true
    rm -r "$logs"
    # Kept, whatever they say: they are what the call is made for; but only a clean run stands.
    if ((passed == total)); then mv "$OUT/tests.txt.part" "$OUT/tests.txt"; else
        mv "$OUT/tests.txt.part" "$OUT/tests_failed.txt"
        return 1
    fi
}

benchmark() {
    before_deadline python "$ROOT/scripts/benchmark_kernels.py" --seconds "$SECONDS_A_LINE" "${options[@]}" --out "$OUT" |
        tee "$OUT/kernels.txt.part"
    mv "$OUT/kernels.txt.part" "$OUT/kernels.txt"
}

errors() {
    before_deadline python "$ROOT/scripts/kernel_errors.py" "${options[@]}" --out "$OUT"
}

tune() {
    before_deadline python "$ROOT/scripts/tune_kernels.py" "${options[@]}" --out "$OUT" | tee "$OUT/tune_kernels.txt.part"
    mv "$OUT/tune_kernels.txt.part" "$OUT/tune_kernels.txt"
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
        tune) run_stage tune_kernels.txt tune ;;
        *) die "STAGES: no stage $stage; there are tests, errors, benchmark and tune" ;;
    esac
done
((${#failed[@]} == 0)) || die "${failed[*]}: failed (see above); what succeeded is in $OUT"
say "gpu: all is in $OUT; $(seconds_left) seconds left"
