#!/usr/bin/env bash
# Text is a function of (model, prompt, seed): not of threads, batch mates or repetition. stdout is text alone.
source "$(dirname "$0")/lib.sh"
prompt="The history of the city"

"$nibble" generate "$model" --prompt "$prompt" --max-tokens 24 --temperature 0 --threads 1 >"$scratch/one" 2>/dev/null
"$nibble" generate "$model" --prompt "$prompt" --max-tokens 24 --temperature 0 --threads 2 >"$scratch/two" 2>/dev/null
cmp "$scratch/one" "$scratch/two" || fail "greedy text depends on the number of threads"
[ -s "$scratch/one" ] || fail "no text"

sample() { "$nibble" generate "$model" --prompt "$prompt" --max-tokens 24 --temperature 0.9 --top-p 0.95 "$@" 2>/dev/null; }
sample --seed 7 >"$scratch/seven"
sample --seed 7 --threads 1 >"$scratch/seven_again"
sample --seed 8 >"$scratch/eight"
cmp "$scratch/seven" "$scratch/seven_again" || fail "a seed does not fix the text"
! cmp -s "$scratch/seven" "$scratch/eight" || fail "two seeds give one text"

# A prompt is taken as typed, whatever it looks like; the flag may be given again, and takes one each time.
prompts=('[INST] hi [/INST]' '[INST] Say a, b, c [/INST]' '[]' '["a","b"]' '[[a]]' '[ ]' '{}' 'a,b' '--json' '%%')
flags=()
for typed in "${prompts[@]}"; do flags+=(--prompt "$typed"); done
"$nibble" generate --prompt= "$model" "${flags[@]}" --max-tokens 2 --stop '[x,y]' --json >"$scratch/typed.json" 2>/dev/null
python3 - "$scratch/typed.json" '' "${prompts[@]}" <<'PY' || fail "a prompt was not taken as typed"
import json, sys
found = [g["prompt"] for g in json.load(open(sys.argv[1]))["generations"]]
assert found == sys.argv[2:], found
PY

# A prompt's text is the same alone and among others.
printf '%s\n' "Once upon a time" "$prompt" "def fibonacci(n):" >"$scratch/prompts.txt"
"$nibble" generate "$model" --prompts "$scratch/prompts.txt" --max-tokens 24 --temperature 0 --json >"$scratch/batch.json" 2>/dev/null
"$nibble" generate "$model" --prompt "$prompt" --max-tokens 24 --temperature 0 --json >"$scratch/alone.json" 2>/dev/null
python3 - "$scratch/batch.json" "$scratch/alone.json" <<'PY' || fail "text depends on batch mates"
import json, sys
batch, alone = (json.load(open(path)) for path in sys.argv[1:])
assert len(batch["generations"]) == 3, batch
assert batch["generations"][1]["text"] == alone["generations"][0]["text"], (batch, alone)
PY
