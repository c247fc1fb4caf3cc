#!/usr/bin/env bash
# Quantizes the demonstration model and compares what comes out with what went in. Called by `make demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${NIBBLE:-build/release/nibble}
out=build/demo
prompt="The history of the city begins"
models=("original|demo/tinymix" "INT4 GPTQ|$out/gptq" "INT4 round-to-nearest|$out/rtn")

nibble() { "$program" --log-level warning "$@"; }  # results; progress where something takes long
say() { printf '\n== %s\n' "$*"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

rm -rf "$out"
mkdir -p "$out"

say "Quantize with GPTQ: 256 calibration rows, INT4, one scale per 128 weights"
nibble quantize demo/tinymix "$out/gptq" --calibration demo/calibration.jsonl --samples 256 --max-seq-len 512

say "Quantize by rounding to nearest: no calibration"
nibble quantize demo/tinymix "$out/rtn" --method rtn

say "What each model makes of: $prompt …"
for model in "${models[@]}"; do
  printf '%s\n' "--- ${model%%|*}"
  nibble generate "${model#*|}" --prompt "$prompt" --max-tokens 40 --temperature 0
done

say "Perplexity on demo/evaluation.txt (lower is better), and size"
rows=()
for model in "${models[@]}"; do
  perplexity=$(nibble perplexity "${model#*|}" --text demo/evaluation.txt --window 256 --json | field perplexity)
  bytes=$(cat "${model#*|}"/*.safetensors | wc -c)
  rows+=("${model%%|*}" "$perplexity" "$(awk "BEGIN { print $bytes / 1e6 }")")
done
printf '%-24s %12s %12s\n' model perplexity "size (MB)"
printf '%-24s %12.4f %12.2f\n' "${rows[@]}"
