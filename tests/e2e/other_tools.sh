#!/usr/bin/env bash
# Checkpoints as other tools leave them are read where their tensors tell what is meant; verify grades what is odd.
source "$(dirname "$0")/lib.sh"

# variant FROM PYTHON: $scratch/variant, a copy of FROM in one shard or, with an `index` (tensor → file), in shards. The
# code changes tensors `t` (name → [type, shape, bytes]), config.json `c` and its quantization_config `q`.
variant() {
  python3 - "$1" "$scratch/variant" "$2" <<'PY'
import json, pathlib, shutil, struct, sys
source, target, code = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
t, index = {}, None
for shard in source.glob("*.safetensors"):
    blob = shard.read_bytes()
    (length,) = struct.unpack("<Q", blob[:8])
    for name, e in json.loads(blob[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in e["data_offsets"])
            t[name] = [e["dtype"], e["shape"], blob[begin:end]]
c = json.loads((source / "config.json").read_text())
q = c.get("quantization_config")

def as_half(name):
    values = [struct.unpack("<f", b"\0\0" + t[name][2][i : i + 2])[0] for i in range(0, len(t[name][2]), 2)]
    t[name] = ["F16", t[name][1], struct.pack(f"<{len(values)}e", *values)]

exec(code)
shutil.rmtree(target, ignore_errors=True)
target.mkdir()
for file in source.iterdir():
    if not file.name.startswith("model"):
        shutil.copyfile(file, target / file.name)
(target / "config.json").write_text(json.dumps(c))
header, data = {}, b""
size = {"I64": 8, "I32": 4, "F32": 4, "BF16": 2, "F16": 2}
for name, (dtype, shape, raw) in sorted(t.items(), key=lambda item: -size.get(item[1][0], 1)):
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
text = json.dumps(header).encode()
text = text.ljust(-(-len(text) // 8) * 8)
shard = "model.safetensors" if index is None else "model-00001-of-00001.safetensors"
(target / shard).write_bytes(struct.pack("<Q", len(text)) + text + data)
if index is not None:
    listing = {name: shard for name in t}
    listing.update(index)
    listing = {name: file for name, file in listing.items() if file}
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listing}))
PY
}

quantize_small "$scratch/int4" --method rtn 2>/dev/null >/dev/null
generate() { "$nibble" --log-level warning generate "$1" --prompt "Once upon a time" --max-tokens 12; }
text=$(generate "$scratch/int4" 2>/dev/null)
dense_text=$(generate "$model" 2>/dev/null)

# same TEXT WARNINGS PATTERN: the variant generates TEXT, with so many lines on stderr, one that matches.
same() {
  expect 0 "$3" generate "$scratch/variant"
  [ "$(cat "$scratch/out")" = "$1" ] || { show; fail "another text than '$1'"; }
  [ "$(grep -vc 'generated prompts' "$scratch/err")" -eq "$2" ] || { show; fail "expected $2 warnings"; }
}
grade() { expect "$1" "$2" "$nibble" verify "$scratch/variant"; }

# Packed models.
variant "$scratch/int4" 'q["quantization_status"] = "frozen"';          same "$text" 0 .; grade 0 '^ok: vLLM should load'
variant "$scratch/int4" '
for name in t:
    if name.endswith("weight_shape"):
        t[name] = ["I32", [2], struct.pack("<2i", *struct.unpack("<2q", t[name][2]))]'
same "$text" 0 .; grade 0 '^unusual +types and shapes .*weight_shape: expected I64 \[2\], found I32'
variant "$scratch/int4" 'as_half("model.layers.1.self_attn.q_proj.weight_scale")'
same "$text" 0 .; grade 0 '^unusual +types and shapes .*weight_scale: expected BF16'
variant "$scratch/int4" '
q["kv_cache_scheme"] = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
for layer in range(4):
    for kind in "kv": t[f"model.layers.{layer}.self_attn.{kind}_scale"] = ["F32", [1], struct.pack("<f", 0.02)]'
same "$text" 1 'kv_cache_scheme_not_applied'; grade 0 '^unusual .*kv_cache_scheme'
for pattern in 're:(?i).*GATE$' 're:(?P<router>.*)gate$' 're:.*\.(?:gate){,1}\Z'; do
  variant "$scratch/int4" "q['ignore'] = [r'$pattern', 'lm_head']"
  same "$text" 0 .; grade 0 '^ok: vLLM should load'
done
for pattern in 're:.*(?<!proj)\.gate$' 're:(?!.*(proj|w[123])).*' 're:(x)?.*gate\1' 're:('; do
  variant "$scratch/int4" "q['ignore'] = [r'$pattern', 'lm_head']"
  same "$text" 1 'pattern_not_understood'; grade 0 '^unusual +patterns can be evaluated'
done
variant "$scratch/int4" 'q["config_groups"]["group_0"]["targets"] = ["re:.*self_attn.*", "re:.*experts.*"]'
same "$text" 0 .; grade 0 '^ok: vLLM should load'
variant "$scratch/int4" '
t["model.layers.1.self_attn.q_proj.weight_scale"][2] = b"\x80\xbf" + t["model.layers.1.self_attn.q_proj.weight_scale"][2][2:]'
grade 5 '^DIFFERS: vLLM should load'
expect 5 '"verdict": "differs"' "$nibble" verify "$scratch/variant" --json
variant "$scratch/int4" 'del t["model.norm.weight"]';                   grade 5 '^FAIL: vLLM would not load'
expect 5 '"verdict": "fails"' "$nibble" verify "$scratch/variant" --json
variant "$scratch/int4" '
del t["model.layers.1.self_attn.q_proj.weight_packed"]
t["model.layers.1.self_attn.q_proj.weight"] = ["BF16", [256, 256], bytes(2 * 256 * 256)]'
expect 3 'q_proj.weight has a weight_scale beside it' generate "$scratch/variant"

# What nothing needs.
variant "$model" 't["extra"] = ["F4", [4], bytes(2)]; t["more"] = ["a type of tomorrow", [1], bytes(3)]'
same "$dense_text" 0 .
expect 0 'extra +F4 +\[4\] +2' "$nibble" inspect "$scratch/variant" --tensors
expect 0 'more +a type of tomorrow +\[1\] +3' "$nibble" inspect "$scratch/variant/model.safetensors"
variant "$model" 't["model.norm.weight"][0] = "F8_E8M0"'
expect 3 'model\.norm\.weight.*expected BF16, F16 or F32, found F8_E8M0' generate "$scratch/variant"
variant "$model" 't["stray"] = ["BF16", [1], bytes(2)]; index = {"stray": None, "mtp.fc.weight": "model-00001-of-00001.safetensors"}'
same "$dense_text" 0 .
variant "$model" 'index = {"model.layers.1.self_attn.q_proj.weight": None}'
expect 1 'q_proj.weight" is not listed in model.safetensors.index.json' generate "$scratch/variant"
variant "$model" 'del t["lm_head.weight"]; index = {"lm_head.weight": "model-00001-of-00001.safetensors"}'
expect 1 'lm_head.weight" should be in model-00001-of-00001.safetensors, which lacks it' generate "$scratch/variant"

# Embedding and head that config.json ties: another head is used, also by the quantized model.
variant "$model" 'c["tie_word_embeddings"] = True';                     same "$dense_text" 1 'head_not_tied'
grade 5 '^DIFFERS .*lm_head.weight differs'
expect 0 'head_not_tied' "$nibble" quantize "$scratch/variant" "$scratch/untied" --method rtn
[ "$(json "$scratch/untied/config.json" 'd["tie_word_embeddings"]')" = False ] || fail "the output ties its tables"
[ "$(generate "$scratch/untied" 2>/dev/null)" = "$text" ] || fail "another text than the model that was never tied"
variant "$model" 'c["tie_word_embeddings"] = True; t["lm_head.weight"] = t["model.embed_tokens.weight"]'
tied_text=$(generate "$scratch/variant")
for missing in lm_head.weight model.embed_tokens.weight; do
  variant "$model" "c['tie_word_embeddings'] = True; t['lm_head.weight'] = t['model.embed_tokens.weight']; del t['$missing']"
  same "$tied_text" 0 .; grade 0 '^ok: vLLM should load'
done

# Another float type stated than stored, or none: the output has the one stated, and a run ends as it began.
for stated in '"float16"' '"float32"' None; do
  rm -rf "$scratch/out_type"
  variant "$model" "c['torch_dtype'] = $stated"
  expect 0 . "$nibble" quantize "$scratch/variant" "$scratch/out_type" --method rtn
  expect 0 '"verdict": "ok"' "$nibble" verify "$scratch/out_type" --json
  [ "$(json "$scratch/out_type/config.json" 'd["torch_dtype"]')" = "$([ "$stated" = '"float16"' ] && echo float16 || echo bfloat16)" ] ||
    fail "config.json of the output does not state its type"
done
variant "$model" 'c["torch_dtype"] = "float16"; t["model.norm.weight"][2] = b"\x80\x47" + t["model.norm.weight"][2][2:]'
rm -rf "$scratch/out_type"
expect 1 'model\.norm\.weight: element \[0\] is 65536, too large for the float16' \
  "$nibble" quantize "$scratch/variant" "$scratch/out_type" --method rtn

# Rounding without data looks at what it copies.
variant "$model" 't["model.layers.1.input_layernorm.weight"][2] = b"\xc0\x7f" + t["model.layers.1.input_layernorm.weight"][2][2:]'
rm -rf "$scratch/out_type"
expect 1 'model\.layers\.1\.input_layernorm\.weight: element \[0\] is nan' \
  "$nibble" quantize "$scratch/variant" "$scratch/out_type" --method rtn
