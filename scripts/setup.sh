#!/usr/bin/env bash
# Makes the Python environment .venv, once; makes it anew when requirements.txt or the Python version changes.
#   bash scripts/setup.sh
# PYTHON   the interpreter, 3.11 or 3.12 (default: the first of python3.11, python3.12, python3 that runs and is one of them)
# Which build of torch comes is pip's choice: for a CPU build, name its index in PIP_EXTRA_INDEX_URL.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

VENV=$ROOT/.venv
# Written last: a setup killed midway leaves none and is done again.
STAMP=$VENV/requirements.stamp

# Prints 3.11 or 3.12, or fails where the interpreter is another or doesn't run (a version manager's shim may exist and fail).
python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null | grep -xE '3\.1[12]'
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        python_version "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: doesn't run, or isn't Python 3.11 or 3.12"
        printf '%s\n' "$PYTHON"
        return
    fi
    while read -r candidate; do
        if python_version "$candidate" >/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(type -ap python3.11 python3.12 python3)
    die "no Python 3.11 or 3.12 found on PATH: install one, or name it by PYTHON=/path/to/python3.12"
}

# What the stamp says where the environment is as it should be for the Python version $1.
wanted_stamp() {
    printf 'python %s\n' "$1"
    cat "$ROOT/requirements.txt"
}

is_current() {
    [[ -f $STAMP ]] || return 1
    local made_as version
    # Its commands name the interpreter by its whole path: in a checkout that was moved or copied since they find none, or another.
    made_as=$(sed -n 's/^command = .* -m venv //p' "$VENV/pyvenv.cfg" 2>/dev/null) || true
    [[ -z $made_as || $made_as -ef $VENV ]] || return 1
    version=$(python_version "$VENV/bin/python") || return 1
    if [[ -n ${PYTHON:-} && $(python_version "$PYTHON") != "$version" ]]; then
        return 1
    fi
    [[ $(wanted_stamp "$version") == "$(<"$STAMP")" ]]
}

install() {
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check "$@" || die "pip install $* failed (see above); run again to go on"
}

if is_current; then
    exit 0
fi

# Two scripts started together: the second waits here and finds the environment made.
exec 9>"$ROOT/.venv.lock"
flock 9
if is_current; then
    exit 0
fi

python=$(find_python)
version=$(python_version "$python")
say "setup: making .venv with Python $version (once; some minutes)"
rm -rf "$VENV"
"$python" -m venv "$VENV" || die "$python -m venv failed (on Debian, install python$version-venv)"
say "setup: installing torch (1 of 2)"
install "$(grep -oE '^torch==[^ #]+' "$ROOT/requirements.txt")"
say "setup: installing fairseq and the other requirements (2 of 2)"
install -r "$ROOT/requirements.txt"
wanted_stamp "$version" >"$STAMP.part"
mv "$STAMP.part" "$STAMP"
say "setup: done"
