#!/usr/bin/env bash
# Files of rows and texts are read alike by every command: by name or through a pipe, as "-", compressed, with a byte
# order mark; rows as they lie about; and patterns that match nothing are told.
source "$(dirname "$0")/lib.sh"
text="Once upon a time there was a girl who liked to play."
bom=$'\xef\xbb\xbf'
log=(--log-level warning)

# One text, whatever way it takes.
printf '%s' "$text" >"$scratch/text.txt"
printf '%s%s' "$bom" "$text" >"$scratch/bom.txt"
gzip -c "$scratch/bom.txt" >"$scratch/bom.txt.gz"
gzip -c "$scratch/text.txt" >"$scratch/no-name-for-it"
perplexity() { "$nibble" "${log[@]}" perplexity "$model" --window 64 --threads 1 --text "$@"; }
perplexity "$scratch/text.txt" >"$scratch/expected"
for file in bom.txt bom.txt.gz no-name-for-it; do
  perplexity "$scratch/$file" >"$scratch/found"
  cmp "$scratch/expected" "$scratch/found" || fail "--text $file is measured differently"
  perplexity - <"$scratch/$file" >"$scratch/found"
  cmp "$scratch/expected" "$scratch/found" || fail "--text - of $file is measured differently"
  perplexity <(cat "$scratch/$file") >"$scratch/found"
  cmp "$scratch/expected" "$scratch/found" || fail "--text of a pipe with $file is measured differently"
done

# Prompts: every way gives the same two, in every format.
mkdir "$scratch/x.json.d" "$scratch/folder.json"
printf '%sOnce upon a time\r\n\nThe city\n' "$bom" >"$scratch/x.json.d/p.txt"
cp "$scratch/x.json.d/p.txt" "$scratch/p"
printf '%s{"prompt": "Once upon a time", "id": NaN}\n\n{"prompt": "The city", "id": 1, "id": 2}\n' "$bom" >"$scratch/p.jsonl"
printf '[{"prompt": "Once upon a time"},\n {"prompt": "The city"}]' >"$scratch/array.jsonl"
printf '["Once upon a time", "The city"]' >"$scratch/strings.json"
printf '%sid,prompt,id\n1,Once upon a time,2\n3,"The city"\n' "$bom" >"$scratch/p.csv"
printf 'id\tprompt\n1\tOnce upon a time\n\n2\tThe city\n' >"$scratch/p.tsv"
gzip -c "$scratch/p.csv" >"$scratch/P.CSV.GZ"
generate() { "$nibble" "${log[@]}" generate "$model" --max-tokens 4 --threads 1 --json "$@"; }
prompts() { json "$1" '[(g["prompt"], g["text"]) for g in d["generations"]]'; }
generate --prompt "Once upon a time" --prompt "The city" >"$scratch/expected.json"
expect_prompts() {
  [ "$(prompts "$scratch/found.json")" = "$(prompts "$scratch/expected.json")" ] ||
    fail "other prompts: $* gave $(prompts "$scratch/found.json")"
}
for file in x.json.d/p.txt p p.jsonl array.jsonl strings.json p.csv p.tsv P.CSV.GZ; do
  generate --prompts "$scratch/$file" >"$scratch/found.json"
  expect_prompts --prompts "$file"
done
generate --prompts - <"$scratch/p" >"$scratch/found.json"
expect_prompts --prompts -
generate --prompts <(cat "$scratch/p") >"$scratch/found.json"
expect_prompts --prompts of a pipe
mkfifo "$scratch/pipe.jsonl"
cat "$scratch/p.jsonl" >"$scratch/pipe.jsonl" &
generate --prompts "$scratch/pipe.jsonl" >"$scratch/found.json"
expect_prompts --prompts of a named pipe
expect 1 'folder\.json: expected a file, found a folder' generate --prompts "$scratch/folder.json"
printf '{"prompt": "a"}\n{"prompt": null}\n' >"$scratch/null.jsonl"
expect 1 'null\.jsonl:2: column "prompt" is null' generate --prompts "$scratch/null.jsonl"
printf '{"prompt": "a"}\n{"promt": "b"}\n' >"$scratch/null.jsonl"
expect 1 'null\.jsonl:2: no column "prompt"; the row has: promt' generate --prompts "$scratch/null.jsonl"
printf '[INST] hi, you [/INST]\n' >"$scratch/p"
generate --prompts - <"$scratch/p" >"$scratch/found.json"
[ "$(json "$scratch/found.json" 'd["generations"][0]["prompt"]')" = "[INST] hi, you [/INST]" ] || fail "brackets"

# Text that is piped in is one prompt, without the end of its last line.
printf 'Two\nlines\r\n' | generate >"$scratch/found.json"
[ "$(json "$scratch/found.json" '[g["prompt"] for g in d["generations"]]')" = "['Two\nlines']" ] ||
  [ "$(json "$scratch/found.json" '[g["prompt"] for g in d["generations"]] == ["Two\nlines"]')" = True ] ||
  fail "the piped text is not the prompt"
expect 2 'standard input' generate </dev/null
expect 2 'standard input' generate <&-
printf 'not this' | generate --prompt "Once upon a time" --prompt "The city" >"$scratch/found.json"
expect_prompts --prompt beside a pipe

# Messages, token ids, recipes.
printf '%s[{"role": "user", "content": "Hi"}]' "$bom" >"$scratch/messages.json"
printf '{{ messages[0].content }}' >"$scratch/template"
cp -r "$model" "$scratch/chat"
cp "$scratch/template" "$scratch/chat/chat_template.jinja"
for way in "$scratch/messages.json" -; do
  expect 0 assistant "$nibble" "${log[@]}" generate "$scratch/chat" --max-tokens 2 --json --messages "$way" \
    <"$scratch/messages.json"
done
echo '[[1, 2, 3]]' >"$scratch/ids.json"
logits() { "$nibble" "${log[@]}" logits "$model" --threads 1 --out "$scratch/$1.logits" --tokens "$2" >/dev/null; }
logits expected "$scratch/ids.json"
logits pipe <(cat "$scratch/ids.json")
logits dash - <"$scratch/ids.json"
cmp "$scratch/expected.logits" "$scratch/pipe.logits" && cmp "$scratch/expected.logits" "$scratch/dash.logits" ||
  fail "token ids through a pipe"

# Calibration: the same samples out of every way and format.
row='{"text": "%s", "score": NaN, "more": [{"deep": -Infinity}]}\n'
for i in $(seq 30); do
  # shellcheck disable=SC2059
  [ $((i % 3)) -eq 0 ] && printf "$row" "" || printf "$row" "$text And $i."
  [ $((i % 7)) -eq 0 ] && echo
done >"$scratch/rows.jsonl"
cp "$scratch/rows.jsonl" "$scratch/rows.json"
zstd -q "$scratch/rows.jsonl" -o "$scratch/rows.jsonl.zst" 2>/dev/null || gzip -k "$scratch/rows.jsonl"
python3 - "$scratch" <<'PY'
import csv, json, sys
rows = [json.loads(line) for line in open(sys.argv[1] + "/rows.jsonl") if line.strip()]
json.dump(rows, open(sys.argv[1] + "/array.json", "w"), indent=1)
with open(sys.argv[1] + "/rows.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["score", "text", "score"])
    writer.writerows([1, row["text"]] for row in rows)
PY
plan() { "$nibble" "${log[@]}" quantize "$model" "$scratch/quantized" --dry-run --json --threads 1 "$@"; }
quantize() { "$nibble" quantize "$model" "$scratch/quantized" --method rtn --threads 1 --json "$@"; }
ids() {
  rm -rf "$scratch/quantized"
  quantize --samples 20 "$@" >"$scratch/report.json" 2>"$scratch/log" || { cat "$scratch/log" >&2; fail "quantize $*"; }
  json "$scratch/report.json" 'd["calibration_ids_sha256"]'
}
expected=$(ids --calibration "$scratch/rows.jsonl")
[ "$(grep -c 'rows_skipped' "$scratch/log")" -eq 1 ] || fail "expected one line about skipped rows"
grep -q 'rows_skipped count=10 of=30 empty=10 .*rows\.jsonl:3: the text is empty' "$scratch/log" || fail "counts"
[ "$(json "$scratch/report.json" '(d["calibration_columns"], d["calibration_rows"], d["calibration_rows_skipped"])')" = \
  "({'text': 20}, 30, 10)" ] || fail "the report's counts"
for file in rows.json array.json rows.csv "$(basename "$(ls "$scratch"/rows.jsonl.*)")"; do
  [ "$(ids --calibration "$scratch/$file")" = "$expected" ] || fail "other samples from $file"
done
[ "$(ids --calibration - <"$scratch/rows.jsonl")" = "$expected" ] || fail "other samples from standard input"
[ "$(ids --calibration <(cat "$scratch"/rows.jsonl.*))" = "$expected" ] || fail "other samples from a pipe"
expect 1 'rows\.jsonl:3: the text is empty; 20 of 30 rows' quantize --samples 21 --calibration "$scratch/rows.jsonl"
expect 2 'only one of them' "$nibble" quantize "$model" "$scratch/none" --calibration - --recipe - </dev/null

# Null is called null, in JSON and in Parquet; columns that nobody reads hold what they like.
printf '{"text": "a"}\n{"text": null}\n' >"$scratch/null.jsonl"
expect 1 'null\.jsonl:2: column "text" is null' quantize --samples 2 --calibration "$scratch/null.jsonl"
awkward=tests/golden/rows/awkward.parquet
expect 1 'awkward\.parquet: row 2: column "text" is null' quantize --samples 3 --calibration $awkward
rm -rf "$scratch/quantized"
expect 0 '"calibration_rows_skipped": 1' quantize --samples 2 --calibration $awkward
expect 0 '"calibration_rows_skipped": 1' plan --samples 2 --calibration <(cat $awkward)
expect 1 'two columns are called "x"' quantize --samples 2 --calibration $awkward --text-column x
expect 1 'column "when": expected text, found OPTIONAL INT64 when \(TIMESTAMP' \
  quantize --samples 2 --calibration $awkward --text-column when

# What was read is said.
printf '{"text": "a", "instruction": "b", "output": "c"}\n{"text": "d"}\n' >"$scratch/both.jsonl"
expect 0 '1 rows of instruction\+output, 1 of text' \
  "$nibble" "${log[@]}" quantize "$model" "$scratch/none" --dry-run --samples 2 --calibration "$scratch/both.jsonl"

# Patterns that match nothing.
slip=(--ignore model.layers.0.self_attn.q_porj)
rm -rf "$scratch/quantized"
expect 0 'pattern_without_match ignore="model\.layers\.0\.self_attn\.q_porj" nearest="model\.layers\.0\.self_attn\.q_proj' \
  "$nibble" quantize "$model" "$scratch/quantized" --method rtn "${slip[@]}"
expect 2 'q_porj" matches no linear of the model; nearest: model\.layers\.0\.self_attn\.q_proj' \
  "$nibble" quantize "$model" "$scratch/none" --method rtn --strict "${slip[@]}"
sed 's/lm_head/re:.*lm_head$'"'"', '"'"'re:vision.*/' "$scratch/quantized/recipe.yaml" >"$scratch/recipe.yaml"
grep -q vision "$scratch/recipe.yaml" || fail "the recipe was not changed"
expect 0 'pattern_without_match ignore="re:vision\.\*"' \
  "$nibble" quantize "$model" "$scratch/none" --dry-run --recipe <(cat "$scratch/recipe.yaml")
