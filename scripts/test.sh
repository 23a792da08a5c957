#!/usr/bin/env bash
# Sets up what the tests need, then checks the style of Python and shell and runs all tests.
#   bash scripts/test.sh [pytest's arguments]
# QUICK     1 leaves out the tests marked slow (0)
# WORKERS   processes that run tests side by side, a file of tests each (one a core, 4 at most)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

QUICK=${QUICK:-0}
WORKERS=${WORKERS:-$(($(nproc) < 4 ? $(nproc) : 4))}
require_flag QUICK
require_count WORKERS
activate
cd "$ROOT"

say "test: ruff"
ruff check --quiet .
say "test: shellcheck"
find scripts examples .ci -type f \( -name '*.sh' -o -name run \) -print0 2>/dev/null | xargs -0 shellcheck

say "test: pytest"
# The tests' tensors are small: threads would only wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
arguments=(--numprocesses "$WORKERS" --dist loadfile)
if [[ $QUICK == 1 ]]; then
    arguments+=(-m "not slow")
fi
exec python -m pytest -q "${arguments[@]}" "$@"
