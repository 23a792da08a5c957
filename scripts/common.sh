# shellcheck shell=bash
# Sourced by every script: strict mode, where the repository is, its Python environment.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

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

# USER_DIR is fairseq's plug-in, absolute since scripts change folders. Where it isn't ours PLUGIN is the flag for it, and
# PLUGIN_NAME what is noted of it.
PLUGIN=() PLUGIN_NAME=
if [[ -n ${USER_DIR:-} && ! $USER_DIR -ef $ROOT/momentum_fairseq ]]; then
    [[ -d $USER_DIR ]] || die "USER_DIR=$USER_DIR: no such folder"
    [[ -f $USER_DIR/__init__.py ]] || die "USER_DIR=$USER_DIR: no __init__.py in it; name the folder of a plug-in"
    USER_DIR=$(realpath --no-symlinks "$USER_DIR")
    # shellcheck disable=SC2034  # read by the scripts that source this file
    PLUGIN=(--user-dir "$USER_DIR") PLUGIN_NAME=${USER_DIR##*/}
    export USER_DIR
else
    USER_DIR=$ROOT/momentum_fairseq
    export -n USER_DIR  # to another clone's scripts this one's would be a plug-in of its own
fi

# describe_status STATUS: how a process ended, by its exit status.
describe_status() {
    if (($1 == 137)); then
        printf 'was killed by SIGKILL (out of memory?)'
    elif (($1 > 128)); then
        printf 'was killed by SIG%s' "$(kill -l $(($1 - 128)))"
    else
        printf 'ended with an error (status %d)' "$1"
    fi
}

# setting NAME: what the folder DATA was prepared with.
setting() { sed -n "s/^$1=//p" "$DATA/settings.txt"; }

# Puts the environment on PATH, made first by setup.sh where it is missing or stale.
# MOMENTUM_ENV=FOLDER takes an environment that has the requirements already, as it is.
activate() {
    local environment=${MOMENTUM_ENV:-$ROOT/.venv}
    if [[ -z ${MOMENTUM_ENV:-} ]]; then
        bash "$ROOT/scripts/setup.sh"
    fi
    [[ -x $environment/bin/python ]] || die "MOMENTUM_ENV=$environment: no bin/python in it; name a Python environment's folder"
    environment=$(realpath "$environment")
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
    revision=$(git -C "$ROOT" ls-files --error-unmatch scripts/common.sh >/dev/null 2>&1 &&
        git -C "$ROOT" describe --always --dirty --abbrev=12 2>/dev/null) || revision=${MOMENTUM_REVISION:-unknown}
    mkdir -p "$1" || die "can't make the folder $1"
    grep -qxFs "$revision" "$1/revision.txt" || printf '%s\n' "$revision" >>"$1/revision.txt"
}

# is_trained FOLDER: its last checkpoint has had MAX_UPDATE updates; going on from it would make at least one more.
is_trained() {
    [[ -f $1/checkpoint_last.pt ]] || return 1
    local updates
    updates=$(python "$ROOT/scripts/updates_trained.py" "$1") || exit
    ((updates >= MAX_UPDATE))
}

# claim_training FOLDER: this run alone trains there, as long as it or what it has started lives; what it starts claims nothing anew.
claim_training() {
    local folder
    folder=$(realpath "$1")
    [[ ${CLAIMED_TRAINING:-} != "$folder" ]] || return 0
    exec 7>"$folder/.lock"
    flock -n 7 || die "$folder: another training is running there; wait for it or name another folder"
    export CLAIMED_TRAINING=$folder
}

# keep_schedule FOLDER SCHEDULE: a training goes on with the learning rates that it began with; FOLDER/schedule.txt has them, unless
# it began before they were noted.
keep_schedule() {
    local file=$1/schedule.txt
    if [[ ! -f $1/checkpoint_last.pt ]]; then
        printf '%s\n' "$2" >"$file"
    elif [[ -f $file && $2 != "$(<"$file")" ]]; then
        die "$1: its learning rate falls by $(<"$file") and can't go on by $2; remove it, set that, or name another folder"
    fi
}

# keep_settings FOLDER SETTINGS [FLAG…]: FOLDER/settings.txt gets the settings and flags that its training begins with, one a line;
# so does a plug-in that isn't ours. Others are refused from then on, since they would change it half-way, or change nothing; what an
# older version didn't note is not compared. Without any flag a finished training is left as it is.
keep_settings() {
    local folder=$1 file=$1/settings.txt settings=$2 difference
    shift 2
    settings+=$'\n'"flags ${*@Q}"
    [[ -z $PLUGIN_NAME ]] || settings+=$'\n'"USER_DIR=$PLUGIN_NAME"
    mkdir -p "$folder" || die "can't make the folder $folder"
    if [[ ! -f $folder/checkpoint_last.pt ]]; then
        claim_training "$folder"
        printf '%s\n' "$settings" >"$file"
        return
    fi
    [[ -f $file ]] || return 0
    settings=$(awk -F '[= ]' 'NR == FNR { noted[$1]; next } $1 in noted || $1 == "USER_DIR"' "$file" <(printf '%s\n' "$settings"))
    difference=$(diff "$file" <(printf '%s\n' "$settings") | grep '^[<>]') || true
    if (($# == 0)) && ! grep -qv '^[<>] flags ' <<<"$difference" && is_trained "$folder"; then
        difference=''
    fi
    [[ -z $difference ]] || die "$folder was trained with other settings (< then, > now); remove it or name another folder"$'\n'"$difference"
}

# settings_file FOLDER RESULT: where the folder of a training notes what a result was scored with, each result for itself.
settings_file() {
    printf '%s/%s.%s.settings' "$1" "$(basename "$2")" "$(realpath -m --relative-to="$1" "$2" | cksum | cut -d ' ' -f 1)"
}

# is_scored FOLDER RESULT SETTINGS CHECKPOINT…: the result was scored with these settings, and after the checkpoints and the last
# update of the training in FOLDER, of which it says how far it had come.
is_scored() {
    local result=$2 newer
    [[ -f $result && $(cat "$(settings_file "$1" "$2")" 2>/dev/null) == "$3${PLUGIN_NAME:+ USER_DIR=$PLUGIN_NAME}" ]] || return 1
    for newer in "$1/checkpoint_last.pt" "${@:4}"; do [[ $result -nt $newer ]] || return 1; done
}

# score_by FOLDER RESULT SETTINGS COMMAND…: makes the result by the command and notes the settings. While it is made none stand
# there: after a kill it isn't taken for one of the settings before.
score_by() {
    local note
    note=$(settings_file "$1" "$2")
    rm -f "$note"
    "${@:4}"
    printf '%s\n' "$3${PLUGIN_NAME:+ USER_DIR=$PLUGIN_NAME}" >"$note"
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
