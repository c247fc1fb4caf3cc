#!/usr/bin/env bash
# Bad input gets one clear error, the documented exit status, and harms nothing.
source "$(dirname "$0")/lib.sh"

broken() {  # a fresh copy of the model to break
  rm -rf "$scratch/model"
  cp -r "$model" "$scratch/model"
}
# refuse STATUS PATTERN COMMAND…: one line of error that starts with the program's name, nothing on stdout, no output.
refuse() {
  rm -rf "$scratch/result"
  expect "$@"
  [ "$(grep -c '^nibble: ' "$scratch/err")" -eq 1 ] || { show; fail "expected one error line: ${*:3}"; }
  [ ! -s "$scratch/out" ] || { show; fail "an error on stdout: ${*:3}"; }
  [ ! -e "$scratch/result/model.safetensors.index.json" ] || fail "left a result behind: ${*:3}"
}
quantize() { "$nibble" quantize "$scratch/model" "$scratch/result" --method rtn; }
first=model-00001-of-00002.safetensors

# Files of the model.
refuse 1 'no-such-model' "$nibble" generate "$scratch/no-such-model" --prompt x
broken; rm "$scratch/model/config.json";          refuse 1 'config\.json' quantize
broken; echo '{' >"$scratch/model/config.json";   refuse 1 'config\.json' quantize
broken; rm "$scratch/model/$first";               refuse 1 "$first" quantize
broken; truncate -s -1000 "$scratch/model/$first"; refuse 1 "$first" quantize
broken; truncate -s 4 "$scratch/model/$first";    refuse 1 "$first" quantize
broken; printf '\xff\xff\xff\xff\xff\xff\xff\x7f' | dd of="$scratch/model/$first" conv=notrunc status=none
refuse 1 "$first" quantize

# What git leaves where it did not fetch a large file; the copies that quantize makes at its end count too.
for file in $first model.safetensors.index.json config.json generation_config.json tokenizer.json tokenizer.model \
  tokenizer_config.json special_tokens_map.json chat_template.jinja; do
  broken
  printf 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12338560\n' >"$scratch/model/$file"
  refuse 1 "$file: a Git LFS pointer.*git lfs pull" quantize
done

edit() {  # edit FILE PYTHON: changes a JSON document `d`
  python3 - "$scratch/model/$1" "$2" <<'PY'
import json, sys
d = json.load(open(sys.argv[1])); exec(sys.argv[2]); json.dump(d, open(sys.argv[1], "w"))
PY
}
broken; edit config.json 'del d["hidden_size"]';              refuse 1 'hidden_size' quantize
broken; edit config.json 'd["hidden_size"] = 512';            refuse 1 '512' quantize
broken; edit config.json 'd["model_type"] = "gpt2"';          refuse 3 'gpt2' quantize
broken; edit config.json 'd["num_experts_per_tok"] = 9';      refuse 1 'num_experts_per_tok' quantize
broken; edit config.json 'd["vocab_size"] = 100';             refuse 1 'vocab|embed_tokens' quantize
broken; edit model.safetensors.index.json 'd["weight_map"].pop("model.norm.weight")'
refuse 1 'model\.norm\.weight' quantize

tensor() {  # tensor NAME PYTHON: changes the bytes `data` and entry `e` of a tensor of the model
  python3 - "$scratch/model" "$1" "$2" <<'PY'
import json, struct, sys
folder, name, code = sys.argv[1:]
shard = folder + "/" + json.load(open(folder + "/model.safetensors.index.json"))["weight_map"][name]
blob = bytearray(open(shard, "rb").read())
(length,) = struct.unpack("<Q", blob[:8])
header = json.loads(blob[8 : 8 + length])
e = header[name]
data = memoryview(blob)[8 + length + e["data_offsets"][0] : 8 + length + e["data_offsets"][1]]
exec(code)
text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
assert len(text) == length, "the header grew"
blob[8 : 8 + length] = text
open(shard, "wb").write(blob)
PY
}
weight=model.layers.2.block_sparse_moe.experts.5.w2.weight
broken; tensor $weight 'data[10:12] = b"\xc0\x7f"';           refuse 1 "${weight//./\\.}" quantize   # NaN
broken; tensor $weight 'data[10:12] = b"\x80\x7f"';           refuse 1 "${weight//./\\.}" quantize   # infinity
broken; tensor $weight 'e["data_offsets"][1] += 2';           refuse 1 "${weight//./\\.}|$first|00002" quantize
broken; tensor $weight 'e["shape"].reverse()';                refuse 1 "${weight//./\\.}" quantize
broken; tensor $weight 'e["dtype"] = "I16"';                  refuse 3 "${weight//./\\.}" quantize

# Calibration rows.
gptq() { "$nibble" quantize "$model" "$scratch/result" --calibration "$scratch/rows.jsonl" --samples "${1:-2}"; }
row='{"instruction": "Add.", "input": "", "output": "1 + 1 = 2", "data_source": "x"}'
printf '%s\n%s\n' "$row" "$row" >"$scratch/rows.jsonl";               refuse 2 '3.*2|2.*3' gptq 3
printf '%s\n{"instruction": \n' "$row" >"$scratch/rows.jsonl";        refuse 1 'rows\.jsonl:2' gptq
printf '%s\n{"other": 1}\n' "$row" >"$scratch/rows.jsonl";            refuse 1 'rows\.jsonl:2' gptq
printf '%s\n{"text": ""}\n' "$row" >"$scratch/rows.jsonl";            refuse 1 'rows\.jsonl:2' gptq
printf '%s\n"\xff"\n' "$row" >"$scratch/rows.jsonl";                  refuse 1 'rows\.jsonl:2' gptq
: >"$scratch/rows.jsonl";                                             refuse 2 'rows\.jsonl' gptq
refuse 1 'no-such-rows' "$nibble" quantize "$model" "$scratch/result" --calibration "$scratch/no-such-rows.jsonl"
cp demo/README.md "$scratch/rows.xyz"
refuse 3 'jsonl' "$nibble" quantize "$model" "$scratch/result" --calibration "$scratch/rows.xyz"

# Places.
mkdir "$scratch/full"; touch "$scratch/full/file"
refuse 2 'empty' "$nibble" quantize "$model" "$scratch/full" --method rtn
refuse 2 'same|input' "$nibble" quantize "$model" "$model" --method rtn
[ "$(ls "$scratch/full")" = file ] || fail "touched a directory it refused"
git diff --quiet -- "$model" || fail "touched the input"
if [ "$(id -u)" -ne 0 ]; then
  mkdir -m 500 "$scratch/locked"
  refuse 1 'locked' "$nibble" quantize "$model" "$scratch/locked/out" --method rtn
fi

# Paths that cannot be, and bytes that are not UTF-8: no bug of nibble's.
refuse 2 '^nibble: output: .*empty' "$nibble" quantize "$model" "" --method rtn
refuse 2 '^nibble: --text: .*empty' "$nibble" perplexity "$model" --text=
refuse 2 '^nibble: model: .*empty' "$nibble" generate "" --prompt x
long=$(printf 'x%.0s' $(seq 256))
refuse 1 "^nibble: .*$long: .*too long" "$nibble" quantize "$model" "$long" --method rtn
refuse 1 "$long: .*too long" "$nibble" quantize "$model" "$long" --method rtn --dry-run
refuse 1 "$long: .*found nothing" "$nibble" generate "$long" --prompt x
refuse 1 "$long.*too long" "$nibble" perplexity "$model" --text "$long"
refuse 1 "$long.*too long" "$nibble" pack "$model" --out "$long"
refuse 1 'demo/README.md/out' "$nibble" quantize "$model" demo/README.md/out --method rtn
odd=$scratch/$'odd \xff name'
cp -r "$model" "$odd"
expect 0 '"bytes"' "$nibble" inspect "$odd" --json
json "$scratch/out" 'd["directory"]' | grep -q 'odd . name' || fail "not valid JSON with a path that is not UTF-8"
expect 0 . "$nibble" generate "$odd" --prompt x --max-tokens 2 --json
refuse 1 'no-such' "$nibble" generate "$scratch/no-such"$'\xff' --prompt x
touch "$odd/"$'LICENSE\xff'
expect 0 '"sha256"' "$nibble" quantize "$odd" "$scratch/result"$'\xff' --method rtn --json
json "$scratch/out" 'd["clean"]' >/dev/null || fail "not valid JSON with names that are not UTF-8"
printf '{%% if %%}\xff' >"$odd/chat_template.jinja"
echo '[{"role": "user", "content": "x"}]' >"$scratch/messages.json"
refuse 1 'chat_template.jinja: not valid UTF-8' "$nibble" generate "$odd" --messages "$scratch/messages.json"
for flag in --prompt --stop; do
  refuse 2 "^nibble: $flag: .*UTF-8" "$nibble" generate "$model" --prompt x $flag $'a\xff'
done
refuse 2 '^nibble: --ignore: .*UTF-8' "$nibble" quantize "$model" "$scratch/result" --method rtn --ignore $'a\xff'

# Flags: the message names the allowed values.
refuse_flag() { refuse 2 "$@"; }
refuse_flag 'gptq.*rtn|rtn.*gptq' "$nibble" quantize "$model" "$scratch/result" --method awq
refuse_flag '4.*8' "$nibble" quantize "$model" "$scratch/result" --method rtn --bits 5
refuse_flag '32.*64.*128' "$nibble" quantize "$model" "$scratch/result" --method rtn --group-size 100
refuse_flag 'minmax' "$nibble" quantize "$model" "$scratch/result" --method rtn --observer median
refuse_flag 'damp' "$nibble" quantize "$model" "$scratch/result" --dampening 0 --calibration demo/calibration.jsonl
refuse_flag 'calibration' "$nibble" quantize "$model" "$scratch/result"
refuse_flag 'temperature' "$nibble" generate "$model" --prompt x --temperature -1
refuse_flag 'stop-token-ids.*4096' "$nibble" generate "$model" --prompt x --stop-token-ids 5,4096
refuse_flag 'bfloat16.*int8' "$nibble" generate "$model" --prompt x --kv-cache-dtype fp4
refuse_flag 'cpu.*reference' "$nibble" generate "$model" --prompt x --backend abacus
refuse 3 'cuda:0.*--backend cpu' "$nibble" generate "$model" --prompt x --backend cuda:0
refuse 3 'cuda:0.*--backend cpu' "$nibble" quantize "$model" "$scratch/result" --method rtn --backend cuda:0
refuse_flag 'prompt' "$nibble" generate "$model" </dev/null
refuse_flag 'text' "$nibble" perplexity "$model"
refuse_flag 'subcommand.*nibble --help' "$nibble"
refuse_flag '--frobnicate.*nibble bench kernels --help' "$nibble" bench kernels --frobnicate

# Numbers are taken whole or refused, never cut to fit.
for number in 99999999999999999999 -99999999999999999999 1e3 12x 0x10 nan '' ' 1'; do
  refuse_flag '^nibble: --max-tokens: ' "$nibble" generate "$model" --prompt x --max-tokens "$number"
  refuse_flag '^nibble: --seed: ' "$nibble" generate "$model" --prompt x --seed "$number"
  refuse_flag '^nibble: --seed: ' "$nibble" quantize "$model" "$scratch/result" --method rtn --seed "$number"
  refuse_flag '^nibble: --context: ' "$nibble" bench decode "$model" --context "$number"
done
refuse_flag '^nibble: --seed: .*18446744073709551615' "$nibble" quantize "$model" "$scratch/result" --method rtn --seed -1
refuse_flag '^nibble: --top-p: .*nan' "$nibble" generate "$model" --prompt x --top-p nan
refuse_flag '^nibble: --temperature: .*inf' "$nibble" generate "$model" --prompt x --temperature inf
refuse_flag '^nibble: --memory: .*8GB' "$nibble" quantize "$model" "$scratch/result" --method rtn --memory GB

# The library names fields of options, the program its flags.
refuse_flag '^nibble: --dampening: expected' "$nibble" quantize "$model" "$scratch/result" --method rtn --dampening 0
refuse_flag '^nibble: --actorder static: .*--method gptq' "$nibble" quantize "$model" "$scratch/result" --method rtn --actorder static
refuse_flag '^nibble: --method gptq .*--calibration' "$nibble" quantize "$model" "$scratch/result"
refuse_flag '^nibble: --stride: expected' "$nibble" perplexity "$model" --text demo/evaluation.txt --window 8 --stride 9
refuse_flag '^nibble: --top-p: expected' "$nibble" generate "$model" --prompt x --top-p 2
refuse 4 '--memory.*--samples.*--max-seq-len' "$nibble" quantize "$model" "$scratch/result" --calibration demo/calibration.jsonl --samples 2 --memory 1

# Ids and texts.
echo '[[1, 5000]]' >"$scratch/tokens.json"
refuse 1 '5000' "$nibble" logits "$model" --tokens "$scratch/tokens.json" --out "$scratch/logits.safetensors"
[ ! -e "$scratch/logits.safetensors" ] || fail "wrote logits of an impossible id"
printf 'abc\xff' >"$scratch/text.txt"
refuse 1 'UTF-8' "$nibble" perplexity "$model" --text "$scratch/text.txt"
