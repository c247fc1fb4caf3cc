#!/usr/bin/env bash
# kill -9 at random moments, then --resume: the finished bytes equal an uninterrupted run's.
source "$(dirname "$0")/lib.sh"
seed=${NIBBLE_SEED:-$RANDOM}
echo "NIBBLE_SEED=$seed repeats this run"
RANDOM=$seed

start=$(date +%s%N)
quantize_small "$scratch/whole" 2>/dev/null
milliseconds=$((($(date +%s%N) - start) / 1000000))
wanted=$(digest_of "$scratch/whole")

kills=0
for attempt in 1 2 3; do
  out=$scratch/killed$attempt
  resume=()
  for _ in $(seq 20); do  # killed again and again, at a random moment of what is left
    "$nibble" quantize "$model" "$out" "${small_run[@]}" "${resume[@]}" >/dev/null 2>"$scratch/err" &
    process=$!
    sleep "$(awk "BEGIN { print ($RANDOM % ($milliseconds + 1)) / 1000 }")"
    if kill -9 $process 2>/dev/null; then kills=$((kills + 1)); fi
    result=0
    wait $process 2>/dev/null || result=$?
    [ $result -ne 0 ] || break
    [ $result -eq 137 ] || { cat "$scratch/err" >&2; fail "exit status $result"; }
    if [ -e "$out/nibble-resume.jsonl" ]; then
      resume=(--resume)
    elif [ -e "$out/config.json" ]; then
      result=0  # killed after its last act
      break
    fi
  done
  [ $result -eq 0 ] || quantize_small "$out" "${resume[@]}" 2>"$scratch/err" || { cat "$scratch/err" >&2; fail "the last resume"; }
  [ "$(digest_of "$out")" = "$wanted" ] || fail "attempt $attempt: resumed bytes differ"
  diff <(cd "$scratch/whole" && ls) <(cd "$out" && ls) || fail "attempt $attempt: other files than an uninterrupted run's"
done
echo "$kills kills"
[ $kills -gt 0 ] || fail "no run lasted long enough to be killed"

# begin OUT: a run that is killed as soon as its ledger is there.
begin() {
  "$nibble" quantize "$model" "$1" "${small_run[@]}" >/dev/null 2>&1 &
  process=$!
  for _ in $(seq 600); do
    [ ! -e "$1/nibble-resume.jsonl" ] || break
    sleep 0.02
  done
  kill -9 $process
  wait $process 2>/dev/null || true
}

# Another recipe does not continue this work.
begin "$scratch/other"
expect 2 'dampening|recipe' quantize_small "$scratch/other" --resume --dampening 0.05

# Nor do other sums. Those of another machine can be done here too, if this one has what they need.
[ "$(uname -m)" = x86_64 ] || exit 0
export NIBBLE_INSTRUCTION_SET=portable
quantize_small "$scratch/whole_portable" 2>/dev/null
begin "$scratch/portable"
expect 2 'algebra = "portable: .*", now ".*: OpenBLAS .*NIBBLE_INSTRUCTION_SET=portable' \
  env -u NIBBLE_INSTRUCTION_SET "$nibble" quantize "$model" "$scratch/portable" "${small_run[@]}" --resume
expect 0 . quantize_small "$scratch/portable" --resume
[ "$(digest_of "$scratch/portable")" = "$(digest_of "$scratch/whole_portable")" ] || fail "resumed bytes differ"
