#!/usr/bin/env bash
# Downloads Multi30k En–De (Elliott et al. 2016, task 1: 29,000 + 1,014 + 1,000 pairs; for non-commercial research) and
# checks it. Fails within 20 seconds where there is no network; what is there already and right is not fetched again.
#   bash scripts/fetch_multi30k.sh OUT
# MULTI30K_URL   where the .gz files lie (default: the authors' repository)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# == 1 ]] || die "usage: bash scripts/fetch_multi30k.sh OUT"
OUT=$1
MULTI30K_URL=${MULTI30K_URL:-https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw}

# The sums are of the uncompressed text.
SUMS="460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6  train.en
2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72  train.de
1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227  val.en
660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660  val.de
399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182  test_2016_flickr.en
4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16  test_2016_flickr.de"

is_right() { [[ -f $1 && $(sha256sum <"$1") == "$2  -" ]]; }

mkdir -p "$OUT" || die "OUT=$OUT: can't make this folder"
# Of two started together the second waits here and finds the text fetched.
exec 9>"$OUT/.lock"
flock 9
trap 'rm -f "$OUT"/*.part' EXIT
while read -r sum name; do
    if is_right "$OUT/$name" "$sum"; then
        continue
    fi
    say "fetch: $name"
    if ! download "$MULTI30K_URL/$name.gz" | gunzip >"$OUT/$name.part"; then
        die "$MULTI30K_URL/$name.gz: download failed; is there a network? With the data at hand, set DATA to its folder"
    fi
    is_right "$OUT/$name.part" "$sum" || die "$MULTI30K_URL/$name.gz: not the text expected (sha256 of the uncompressed differs from $sum)"
    mv "$OUT/$name.part" "$OUT/$name"
done <<<"$SUMS"
say "fetch: Multi30k stands in $OUT"
