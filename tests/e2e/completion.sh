#!/usr/bin/env bash
# The shells' own parsers accept the completion scripts, and bash completes a command and a flag with them.
source "$(dirname "$0")/lib.sh"

for shell in bash zsh fish; do
  expect 0 'quantize' "$nibble" completion "$shell"
  cp "$scratch/out" "$scratch/completion.$shell"
done
expect 2 'bash' "$nibble" completion powershell

bash -n "$scratch/completion.bash" || fail "bash does not parse its completion script"
if command -v zsh >/dev/null; then zsh -n "$scratch/completion.zsh" || fail "zsh does not parse it"; fi
if command -v fish >/dev/null; then fish -n "$scratch/completion.fish" || fail "fish does not parse it"; fi

complete_line() {  # words of a command line; prints what bash would offer for the last one
  bash -c '
    source "$1"; shift
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
    function_name=$(complete -p nibble | sed "s/.*-F \([^ ]*\).*/\1/")
    "$function_name" nibble "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
    printf "%s\n" "${COMPREPLY[@]}"' _ "$scratch/completion.bash" "$@"
}
complete_line nibble qua >"$scratch/words"
grep -qx 'quantize *' "$scratch/words" || fail "bash does not complete 'nibble qua'"
complete_line nibble quantize --calib >"$scratch/words"
grep -qx -- '--calibration *' "$scratch/words" || fail "bash does not complete '--calib'"
