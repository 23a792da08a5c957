# shellcheck shell=bash
# Sourced by the scripts that prepare a published corpus: its raw text, once, then prepare_parallel.sh.

# unpack_raw SETTINGS COMMAND…: makes $OUT/raw, whole or not at all, by the command, which gets the folder to write to as its
# last argument. $OUT/raw/settings.txt holds the settings, all that the text depends on; the same ones again do nothing.
unpack_raw() {
    local settings=$1
    shift
    if [[ -f $OUT/raw/settings.txt && $settings == "$(<"$OUT/raw/settings.txt")" ]]; then
        say "unpack: $OUT/raw stands, nothing to do"
        return
    fi
    claim_raw
    if [[ -f $OUT/raw/settings.txt && -d $OUT/data-bin ]]; then
        local difference
        difference=$(diff "$OUT/raw/settings.txt" <(printf '%s\n' "$settings") | grep '^[<>]') || true
        die "OUT=$OUT was prepared from other input or settings (< then, > now); remove it or name another folder"$'\n'"$difference"
    fi
    activate
    local part=$OUT/raw.part.$$
    # Without the lock, so that what outlives a killed run holds nothing.
    "$@" "$part" 8>&- || die "unpack: failed (see above); nothing of it was kept"
    printf '%s\n' "$settings" >"$part/settings.txt"
    rm -rf "$OUT/raw"
    mv "$part" "$OUT/raw"
    exec 8>&-
}

# Keeps what is downloaded and unpacked in OUT to one run.
claim_raw() {
    exec 8>"$OUT/.raw.lock"
    flock -n 8 || die "OUT=$OUT: another run is unpacking there; wait for it or name another folder"
    remove_raw_parts
    trap remove_raw_parts EXIT
}

remove_raw_parts() { rm -rf "$OUT"/raw.part.* "$OUT"/archive.part.*; }

# Makes the folder OUT and its path absolute.
make_out() {
    [[ -n $OUT ]] || die "OUT is not set: name the folder to write to"
    mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"
    OUT=$(realpath "$OUT")
}

# prepare_raw: prepare_parallel.sh on what unpack_raw made.
prepare_raw() {
    export DATA=$OUT/raw OUT TRAIN=train VALID=valid TEST=test
    exec bash "$ROOT/scripts/prepare_parallel.sh"
}
