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

# A prompt that begins with the BOS token is used as it is, with one warning for all prompts.
printf '%s\n' "<s>Once" "Once" "<s> upon" >"$scratch/bos.txt"
expect 0 'warning two_bos source="prompts" texts=2 of=3 ' "$nibble" generate "$model" --prompts "$scratch/bos.txt" --max-tokens 1
[ "$(grep -c two_bos "$scratch/err")" -eq 1 ] || fail "expected one warning"
expect 0 'text' "$nibble" generate "$model" --prompt "Once" --max-tokens 1 --json
! grep -q two_bos "$scratch/err" || fail "warned without a reason"

# A special token ends the output: as a stop string, by its id, and as the EOS of any of three files.
ends() {  # ends MODEL FLAG…: two tokens at most, the second the comma, which is not shown
  "$nibble" generate "$@" --prompt "Once upon a time" --max-tokens 12 --json >"$scratch/stop.json" 2>/dev/null
  [ "$(json "$scratch/stop.json" '[(g["finish_reason"], g["tokens"][-1], "," in g["text"]) for g in d["generations"]]')" = \
    "[('stop', $comma, False)]" ] || { cat "$scratch/stop.json" >&2; fail "did not end at the comma: $*"; }
}
cp -r "$model" "$scratch/model"
comma=$(python3 - "$scratch/model" '{"additional_special_tokens": [","]}' <<'PY'
import json, sys
folder, change = sys.argv[1:]
config = json.load(open(folder + "/tokenizer_config.json"))
json.dump({**config, **json.loads(change)}, open(folder + "/tokenizer_config.json", "w"))
print(json.load(open(folder + "/tokenizer.json"))["model"]["vocab"][","])
PY
)
ends "$scratch/model" --stop ","
ends "$model" --stop-token-ids "7,$comma"
python3 - "$scratch/model/tokenizer_config.json" <<'PY'
import json, sys
config = json.load(open(sys.argv[1])); config["eos_token"] = ","; json.dump(config, open(sys.argv[1], "w"))
PY
ends "$scratch/model"
