#!/usr/bin/env bash
# Runs one fuzz target for NIBBLE_FUZZ_SECONDS (default 60) from its seeds and from what earlier runs found, which is
# kept in the user's cache folder:
#
#   tools/fuzz_smoke.sh build/fuzz/fuzz_safetensors safetensors
set -euo pipefail
program=$(realpath "$1")
name=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."

found=${XDG_CACHE_HOME:-$HOME/.cache}/nibble/fuzz/$name
crashes=$(dirname "$program")/crashes
mkdir -p "$found" "$crashes"
"$program" -max_total_time="${NIBBLE_FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
  -print_final_stats=1 -verbosity=0 -artifact_prefix="$crashes/$name-" "$found" "fuzz/corpus/$name" || {
  echo "fuzz target $name failed; repeat with: $program $crashes/$name-…" >&2
  exit 1
}
