# shellcheck shell=bash
# Sourced by every script: strict mode, where the repository is, its Python environment.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # read by the scripts that source this file
USER_DIR=$ROOT/momentum_fairseq

# With --help a script prints the comment at its top and does nothing.
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
fi

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Puts the environment on PATH, made first by setup.sh where it is missing or stale.
# MOMENTUM_ENV=FOLDER takes an environment that has the requirements already, as it is.
activate() {
    local environment=${MOMENTUM_ENV:-$ROOT/.venv}
    if [[ -z ${MOMENTUM_ENV:-} ]]; then
        bash "$ROOT/scripts/setup.sh"
    fi
    [[ -x $environment/bin/python ]] || die "MOMENTUM_ENV=$environment: no bin/python in it; name a Python environment's folder"
    export PATH=$environment/bin:$PATH
    export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
    # The same text in and out whatever the machine's locale.
    export PYTHONUTF8=1
    # glibc gives freed memory back and gets it again, page by page, at every operation on a large tensor: keep it.
    export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-2000000000} MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1000000000}
}

# require_flag NAME, require_count NAME [LEAST]: the variable NAME holds 0 or 1, a whole number.
require_flag() {
    [[ ${!1} == [01] ]] || die "$1=${!1}: must be 0 or 1"
}

require_count() {
    local least=${2:-1}
    if ! [[ ${!1} =~ ^[0-9]{1,9}$ ]] || ((10#${!1} < least)); then
        die "$1=${!1}: must be a whole number, at least $least"
    fi
}

# note_revision FOLDER: this tree's commit goes into FOLDER/revision.txt, unless it is there already.
note_revision() {
    local revision
    revision=$(git -C "$ROOT" describe --always --dirty --abbrev=12 2>/dev/null) || revision=${MOMENTUM_REVISION:-unknown}
    mkdir -p "$1" || die "can't make the folder $1"
    grep -qxFs "$revision" "$1/revision.txt" || printf '%s\n' "$revision" >>"$1/revision.txt"
}

# is_trained FOLDER: its log says that all MAX_UPDATE updates are done; going on from its checkpoint would make at least one more.
is_trained() {
    grep -qs "num_updates: [0-9]* >= max_update: $MAX_UPDATE\$" "$1/train.log"
}

# keep_flags FOLDER [FLAG…]: FOLDER/flags.txt gets the flags that its training begins with. Others are refused from then on, since
# they would change the training half-way, or nothing at all; none will do once it is done.
keep_flags() {
    local folder=$1 file=$1/flags.txt
    shift
    mkdir -p "$folder" || die "can't make the folder $folder"
    if [[ ! -f $file || ! -f $folder/checkpoint_last.pt ]]; then
        printf '%s\n' "${*@Q}" >"$file"
    elif [[ ${*@Q} != "$(<"$file")" ]] && ! { (($# == 0)) && is_trained "$folder"; }; then
        die "$folder was trained with the flags '$(<"$file")', not with '${*@Q}': give the same, name another folder, or remove this one"
    fi
}

# download URL: what lies there, to standard output; gives up soon where there is no network.
download() {
    if command -v curl >/dev/null; then
        curl --fail --silent --show-error --location --connect-timeout 10 --speed-limit 1000 --speed-time 15 "$1"
    elif command -v wget >/dev/null; then
        wget --quiet --tries=1 --timeout=10 --output-document=- "$1"
    else
        die "curl or wget is needed to download"
    fi
}
