# Sourced by every script here. The working directory is the repository root; each script has its own
# $scratch, removed at the end. NIBBLE is the program under test, NIBBLE_REFERENCE_DATA may be absent.
set -euo pipefail

nibble=${NIBBLE:-build/release/nibble}
reference=${NIBBLE_REFERENCE_DATA:-../shared/data}
model=demo/tinymix
scratch=$(mktemp -d "${TMPDIR:-/tmp}/nibble-e2e.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

skip() {
  printf 'skipped: %s\n' "$*"
  exit 77
}

require_reference() {
  [ -e "$reference/$1" ] || skip "reference data absent: $reference/$1"
}

# run COMMAND…: keeps stdout in $scratch/out, stderr in $scratch/err, the exit status in $status.
run() {
  status=0
  "$@" >"$scratch/out" 2>"$scratch/err" || status=$?
}

show() {
  sed 's/^/  out: /' "$scratch/out" | head -40 >&2
  sed 's/^/  err: /' "$scratch/err" | tail -40 >&2
}

# expect STATUS PATTERN COMMAND…: the exit status, and a line of stdout or stderr that matches PATTERN (ERE).
expect() {
  local wanted=$1 pattern=$2
  shift 2
  run "$@"
  if [ "$status" -ne "$wanted" ]; then
    show
    fail "exit status $status, expected $wanted: $*"
  fi
  if ! grep -qE -- "$pattern" "$scratch/out" "$scratch/err"; then
    show
    fail "no line matches '$pattern': $*"
  fi
}

# json FILE EXPRESSION: evaluates a Python expression over the document `d`.
json() {
  python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

# expect_close NAME FOUND EXPECTED RELATIVE
expect_close() {
  python3 - "$@" <<'PY' || fail "$1: found $2, expected $3 within $4 relative"
import sys
found, expected, relative = map(float, sys.argv[2:5])
print(f"{sys.argv[1]}: {found} (expected {expected}, relative difference {abs(found / expected - 1):.2e})")
sys.exit(abs(found - expected) > relative * abs(expected))
PY
}

# The tensors and configuration of a finished checkpoint, as one digest: what resuming and thread counts may not change.
digest_of() {
  [ -s "$1/config.json" ] || fail "$1 is not a finished checkpoint"
  (cd "$1" && find . -name config.json -o -name '*.safetensors' -o -name '*.index.json' | sort | xargs sha256sum |
    sha256sum | cut -d' ' -f1)
}

# A small calibrated run, used by several scripts: quantize_small OUT [FLAG…]. In the background use the flags, so that
# signals reach the program and not a shell around it.
small_run=(--calibration demo/calibration.jsonl --samples 16 --max-seq-len 128)
quantize_small() { "$nibble" quantize "$model" "$1" "${small_run[@]}" "${@:2}"; }
