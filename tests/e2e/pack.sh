#!/usr/bin/env bash
# Packed weights: the same text, refused when stale, whole or absent, never in the way.
source "$(dirname "$0")/lib.sh"
copy=$scratch/model
cp -r "$model" "$copy"
packed=$copy/nibble-packed.weights

text() { "$nibble" "$@" generate "$copy" --prompt "Once upon a time" --max-tokens 12 2>"$scratch/err"; }
text >"$scratch/before"
expect 0 'nibble-packed.weights: [0-9.]+ MB' "$nibble" pack "$copy"
[ -s "$packed" ] || fail "no file"
text >"$scratch/after"
cmp "$scratch/before" "$scratch/after" || fail "the text changed"
! grep -q packed_weights_ignored "$scratch/err" || fail "the file was not used"
expect 0 'nibble-packed.weights .*equal' "$nibble" verify "$copy"

# It is not replaced unasked, and nothing that belongs to the checkpoint ever is.
expect 2 '--force' "$nibble" pack "$copy"
expect 2 'checkpoint itself' "$nibble" pack "$copy" --force --out "$copy/model-00001-of-00002.safetensors"
expect 1 'absent' "$nibble" pack "$copy" --out "$scratch/absent/file"
expect 0 '"bytes": [0-9]+' "$nibble" pack "$copy" --out "$scratch/elsewhere" --threads 1 --json
cmp "$packed" "$scratch/elsewhere" || fail "the file depends on the number of threads"

# Damage that only a comparison of every byte can see.
size=$(stat -c %s "$packed")
printf '\x7f' | dd of="$packed" bs=1 seek=$((size / 2)) conv=notrunc status=none
expect 5 'FAIL +nibble-packed.weights .*differs' "$nibble" verify "$copy"
expect 0 . "$nibble" pack "$copy" --force
expect 0 'nibble-packed.weights .*equal' "$nibble" verify "$copy"

# Damage and staleness that loading sees: one warning, then the right text.
refused() {  # PATTERN
  text >"$scratch/after"
  [ "$(grep -c packed_weights_ignored "$scratch/err")" -eq 1 ] || fail "expected one warning: $1"
  grep packed_weights_ignored "$scratch/err" | grep -qE -- "$1" || { cat "$scratch/err" >&2; fail "no '$1'"; }
  cmp "$scratch/before" "$scratch/after" || fail "the text changed: $1"
}
cp "$packed" "$scratch/good"
truncate -s $((size - 4096)) "$packed"
refused 'truncated.*nibble pack --force'
printf 'not weights' >"$packed"
refused 'nibble-packed.weights'
cp "$scratch/good" "$packed"
printf '\n' >>"$copy/config.json"
refused 'config.json'
expect 5 'FAIL +nibble-packed.weights' "$nibble" verify "$copy"

# Interrupted or out of space: no file, no remains.
rm "$packed"
(trap '' XFSZ; ulimit -f 1000; run "$nibble" pack "$copy"; [ "$status" -eq 4 ]) || fail "expected status 4 where the file does not fit"
[ -z "$(find "$copy" -name 'nibble-packed*')" ] || fail "left something behind"
