#!/usr/bin/env bash
# A dry run shows the whole plan and everything that is lacking, then its status; the run itself is refused alike.
source "$(dirname "$0")/lib.sh"

# A checkpoint of Mixtral-8x22B's shape without contents, with as many layers as this disk cannot hold even in INT4.
cp -r "$model" "$scratch/huge"
rm "$scratch"/huge/*.safetensors "$scratch/huge/model.safetensors.index.json"
python3 - "$scratch/huge" <<'PY'
import json, shutil, sys
folder = sys.argv[1]
hidden, middle, experts, vocab, kv = 6144, 16384, 8, 32000, 1024
layers = 2 + shutil.disk_usage(folder).free // 1_200_000_000
config = json.load(open(folder + "/config.json"))
config.update(hidden_size=hidden, intermediate_size=middle, num_hidden_layers=layers, num_attention_heads=48,
              num_key_value_heads=8, head_dim=128, num_local_experts=experts, vocab_size=vocab, torch_dtype="bfloat16")
json.dump(config, open(folder + "/config.json", "w"))
tensors = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden], "lm_head.weight": [vocab, hidden]}
for i in range(layers):
    layer = f"model.layers.{i}."
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[layer + norm + ".weight"] = [hidden]
    for name, rows in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
        tensors[layer + f"self_attn.{name}_proj.weight"] = [rows, hidden]
    moe = layer + "block_sparse_moe."
    tensors[moe + "gate.weight"] = [experts, hidden]
    for j in range(experts):
        for name, shape in (("w1", [middle, hidden]), ("w2", [hidden, middle]), ("w3", [middle, hidden])):
            tensors[moe + f"experts.{j}.{name}.weight"] = shape
header, offset = {}, 0
for name, shape in tensors.items():
    size = 2
    for dim in shape: size *= dim
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
    offset += size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)  # or every tensor would be copied
with open(folder + "/model.safetensors", "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + offset)  # a hole
PY

# lacking COUNT FLAG…: the plan is whole, the error names that many things, as text and as JSON.
lacking() {
  local count=$1
  shift
  expect 4 'of a budget of' "$nibble" quantize "$scratch/huge" "$scratch/out" --dry-run "$@"
  for part in '^memory' '^disk' '  output ' '  free ' '^time' 'in all, at least'; do
    grep -qE "$part" "$scratch/out" || { show; fail "the plan lacks '$part'"; }
  done
  [ "$(grep -c '^nibble: ' "$scratch/err")" -eq 1 ] || { show; fail "expected one error line"; }
  grep -qE '^nibble: .*out: needs [0-9.]+ [GT]B on disk .* free' "$scratch/err" || { show; fail "no word of the disk"; }
  cp "$scratch/err" "$scratch/why"
  expect 4 '"lacking": \[' "$nibble" quantize "$scratch/huge" "$scratch/out" --dry-run --json "$@"
  [ "$(json "$scratch/out" 'len(d["lacking"])')" -eq "$count" ] || { show; fail "expected $count things lacking"; }
  [ "$(json "$scratch/out" 'd["output_bytes"] > d["free_disk_bytes"] and len(d["memory"]) > 2')" = True ] || fail "the plan is not whole"
}
gptq=(--calibration demo/calibration.jsonl --samples 2 --max-seq-len 64)
lacking 1 --method rtn --memory 100GB
lacking 2 --method rtn --memory 1GB
grep -qE 'needs .* of memory .*--memory' "$scratch/why" || { cat "$scratch/why" >&2; fail "no word of the memory"; }
lacking 2 "${gptq[@]}" --memory 1GB
expect 4 'one expert at a time.*result: needs' "$nibble" quantize "$scratch/huge" "$scratch/result" "${gptq[@]}" --memory 1GB
[ ! -e "$scratch/result" ] || fail "began what cannot end"

expect 0 'of a budget of' "$nibble" quantize "$model" "$scratch/result" --method rtn --dry-run
[ ! -s "$scratch/err" ] || { show; fail "something is lacking"; }
expect 0 '"lacking": \[\]' "$nibble" quantize "$model" "$scratch/result" --method rtn --dry-run --json
