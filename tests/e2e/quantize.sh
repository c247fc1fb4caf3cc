#!/usr/bin/env bash
# Quantize → verify → perplexity. The bytes do not depend on the number of threads; GPTQ beats rounding.
source "$(dirname "$0")/lib.sh"

quantize_small "$scratch/one" --threads 1 2>"$scratch/log"
quantize_small "$scratch/two" --threads 2 2>>"$scratch/log"
[ "$(digest_of "$scratch/one")" = "$(digest_of "$scratch/two")" ] || fail "the result depends on the number of threads"
"$nibble" quantize "$model" "$scratch/rtn" --method rtn 2>>"$scratch/log"

for name in tokenizer.json tokenizer.model tokenizer_config.json generation_config.json special_tokens_map.json; do
  cmp "$model/$name" "$scratch/one/$name" || fail "$name is not a byte copy"
done
for out in one rtn; do
  expect 0 . "$nibble" verify "$scratch/$out"
  "$nibble" perplexity "$scratch/$out" --text demo/evaluation.txt --window 256 --json >"$scratch/$out.json" 2>/dev/null
done
"$nibble" perplexity "$model" --text demo/evaluation.txt --window 256 --json >"$scratch/original.json" 2>/dev/null
python3 - "$scratch"/{original,one,rtn}.json <<'PY' || fail "perplexities are out of order"
import json, sys
original, gptq, rtn = (json.load(open(path))["perplexity"] for path in sys.argv[1:])
print(f"original {original:.4f}, GPTQ {gptq:.4f}, round to nearest {rtn:.4f}")
sys.exit(not original < gptq < rtn < 1.1 * original)
PY

# Size: codes, scales and shapes of the linears, everything else as it was.
original=$(cat "$model"/*.safetensors | wc -c)
quantized=$(cat "$scratch"/one/*.safetensors | wc -c)
[ $((quantized * 100)) -lt $((original * 50)) ] || fail "$quantized bytes from $original"
