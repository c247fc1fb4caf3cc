#!/usr/bin/env bash
# clang-tidy over our sources with the compile commands of a build folder that compiles each alone (`make tidy`).
# One that passed is remembered by the digest of its preprocessed text, so that a second run looks at changes only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build/tidy}
export build passed="${XDG_CACHE_HOME:-$HOME/.cache}/nibble/clang-tidy"
mkdir -p "$passed"

check_one() {
  local source=$1 command digest
  command=$(python3 - "$build/compile_commands.json" "$PWD/$source" <<'PY'
import json, shlex, sys
for entry in json.load(open(sys.argv[1])):
    if entry["file"] == sys.argv[2]:
        words = shlex.split(entry["command"])
        words = words[next(i for i, word in enumerate(words) if "clang" in word):]
        print(shlex.join(words[: words.index("-o")] + ["-E", "-P", sys.argv[2]]))
        break
PY
  )
  [ -n "$command" ] || return 0  # not built by this preset
  digest=$({ cat .clang-tidy && (cd "$build" && eval "$command"); } | sha256sum | cut -d' ' -f1)
  [ -e "$passed/$digest" ] && return 0
  clang-tidy-19 --quiet -p "$build" "$source" 2>/dev/null || {
    echo "clang-tidy: $source has findings" >&2
    return 1
  }
  touch "$passed/$digest"
}
export -f check_one

git ls-files 'src/*.cc' 'tools/*.cc' 'fuzz/*.cc' |
  xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'check_one {}'
