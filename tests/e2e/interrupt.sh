#!/usr/bin/env bash
# Ctrl-C: status 130, nothing half-written that could pass for a result, and the run can be continued.
source "$(dirname "$0")/lib.sh"
set -m  # without job control the shell lets background jobs ignore SIGINT

long_run=("$nibble" quantize "$model" "$scratch/result" --calibration demo/calibration.jsonl --samples 512)
interrupt() {  # PROCESS: as Ctrl-C does; leaves the exit status in $status
  kill -INT "$1" 2>/dev/null || fail "finished before it could be interrupted"
  status=0
  wait "$1" || status=$?
}

"${long_run[@]}" >/dev/null 2>"$scratch/err" &
process=$!
for _ in $(seq 600); do  # until work is under way
  [ ! -e "$scratch/result/nibble-resume.jsonl" ] || break
  sleep 0.05
done
sleep 0.2
interrupt $process
[ $status -eq 130 ] || { cat "$scratch/err" >&2; fail "exit status $status, expected 130"; }
if ls "$scratch/result" | grep -qE '^(config.json|.*index.json|.*safetensors)$'; then fail "left what looks like a result"; fi
expect 1 . "$nibble" inspect "$scratch/result"
expect 0 . "${long_run[@]}" --resume
expect 0 . "$nibble" verify "$scratch/result"

# A stream of text stops as well.
"$nibble" generate "$model" --prompt "Once" --max-tokens 2000 --ignore-eos >"$scratch/text" 2>"$scratch/err" &
process=$!
for _ in $(seq 600); do
  [ ! -s "$scratch/text" ] || break
  sleep 0.05
done
interrupt $process
[ $status -eq 130 ] || { cat "$scratch/err" >&2; fail "generate: exit status $status, expected 130"; }
