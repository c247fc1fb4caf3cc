#!/usr/bin/env bash
# A result that cannot be printed is a failure, for every command; streams that are closed are nobody else's.
source "$(dirname "$0")/lib.sh"
echo '[[1, 2, 3]]' >"$scratch/ids.json"
head -c 2000 demo/evaluation.txt >"$scratch/text.txt"
cp -r "$model" "$scratch/model"
text="$scratch/text.txt"

# check STATUS…: one of these statuses, and one line of error that names stdout.
check() {
  [[ " $* " == *" $status "* ]] || fail "exit status $status, expected one of $*: ${command[*]}"
  [ "$(grep -c '^nibble: stdout: ' "$scratch/err")" -eq 1 ] && [ "$(grep -c '^nibble: ' "$scratch/err")" -eq 1 ] ||
    { cat "$scratch/err" >&2; fail "expected one error line about stdout: ${command[*]}"; }
}
unprintable() {  # COMMAND…: to a full disk, and to a closed stdout
  command=("$@")
  status=0; "$@" >/dev/full 2>"$scratch/err" || status=$?
  check 4
  status=0; "$@" >&- 2>"$scratch/err" || status=$?
  check 1
}
unprintable "$nibble" --help
unprintable "$nibble" --version
unprintable "$nibble" quantize --help
unprintable "$nibble" completion bash
unprintable "$nibble" generate "$model" --prompt "Once upon a time" --max-tokens 8
unprintable "$nibble" generate "$model" --prompt "Once upon a time" --max-tokens 8 --json
unprintable "$nibble" perplexity "$model" --text "$text" --window 64
unprintable "$nibble" perplexity "$model" --text "$text" --window 64 --baseline "$model"
unprintable "$nibble" perplexity "$model" --text "$text" --window 64 --json
unprintable "$nibble" logits "$model" --tokens "$scratch/ids.json" --out "$scratch/logits.safetensors"
unprintable "$nibble" inspect "$model"
unprintable "$nibble" inspect "$model" --tensors  # more than a buffer
unprintable "$nibble" inspect "$model" --tensors --json
unprintable "$nibble" inspect "$model/model-00001-of-00002.safetensors"
unprintable "$nibble" verify "$model"
unprintable "$nibble" verify "$model" --json
unprintable "$nibble" pack "$scratch/model" --force
unprintable "$nibble" quantize "$model" "$scratch/absent" --method rtn --dry-run
unprintable "$nibble" quantize "$model" "$scratch/absent" --method rtn --dry-run --json
unprintable "$nibble" bench decode "$model" --context 8 --repeats 7

# What streams stops at the first write that fails: nothing is reported as generated.
"$nibble" generate "$model" --prompt "Once upon a time" --max-tokens 200 >/dev/full 2>"$scratch/err" && fail "succeeded"
! grep -q '^.* generated ' "$scratch/err" || fail "went on behind a full disk"

# A reader that goes away ends the program quietly, whether SIGPIPE is ignored or not.
for ignored in '' PIPE; do
  (
    [ -z "$ignored" ] || trap '' "$ignored"
    { run_status=0
      "$nibble" --log-level error generate "$model" --prompt "Once upon a time" --max-tokens 200 2>"$scratch/err" || run_status=$?
      echo "$run_status" >"$scratch/status"; } | head -c 1 >/dev/null
  ) || true
  [ "$(cat "$scratch/status")" -ne 0 ] || fail "a result nobody read is a success"
  [ ! -s "$scratch/err" ] || { cat "$scratch/err" >&2; fail "not quiet where the reader went away"; }
done

# With closed streams no file that is opened takes their place.
status=0
"$nibble" logits "$model" --tokens "$scratch/ids.json" --out "$scratch/alone.safetensors" <&- >&- 2>&- || status=$?
[ "$status" -eq 1 ] || fail "exit status $status with all streams closed, expected 1"
cmp "$scratch/logits.safetensors" "$scratch/alone.safetensors" || fail "the file depends on the streams"
status=0
"$nibble" generate "$scratch/absent" --prompt x <&- >&- 2>&- || status=$?
[ "$status" -eq 1 ] || fail "exit status $status for an error nobody hears, expected 1"
expect 0 . "$nibble" generate "$model" --prompt "Once" --max-tokens 2 <&-
"$nibble" generate "$model" --prompt "Once" --max-tokens 2 2>&- >"$scratch/out" || fail "needs a stderr"
[ -s "$scratch/out" ] || fail "printed nothing without a stderr"
