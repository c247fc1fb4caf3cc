#!/usr/bin/env bash
# Perplexity equals what transformers finds, within 1e-4 relative: of the demonstration model on demo/evaluation.txt
# (tests/golden/perplexity.json, made by tools/record_perplexity.py), and of W4A16 checkpoints of llm-compressor where the
# reference data are. NIBBLE_GOLDEN=full adds the whole of WikiText-2 test.
source "$(dirname "$0")/lib.sh"
golden=tests/golden/perplexity.json

check() {  # NAME CHECKPOINT TEXT TOKENS PERPLEXITY
  "$nibble" perplexity "$2" --text "$3" --window 256 --json >"$scratch/result.json" 2>"$scratch/err" ||
    { cat "$scratch/err" >&2; fail "$1"; }
  [ "$(json "$scratch/result.json" 'd["tokens"]')" = "$4" ] || fail "$1: another number of tokens than $4"
  expect_close "$1" "$(json "$scratch/result.json" 'd["perplexity"]')" "$5" 1e-4
}
check_recorded() {  # NAME CHECKPOINT
  check "$1" "$2" demo/evaluation.txt "$(json "$golden" "d['checkpoints']['$1']['tokens']")" \
    "$(json "$golden" "d['checkpoints']['$1']['perplexity']")"
}
check_recorded tinymix "$model"
require_reference golden/tinymix/llmcompressor_w4a16
for name in llmcompressor_w4a16_v041 llmcompressor_w4a16; do
  check_recorded $name "$reference/golden/tinymix/$name"
done

[ "${NIBBLE_GOLDEN:-}" = full ] || exit 0
check_wikitext() { check "WikiText-2: $1" "$2" "$reference/text/wikitext-2-raw/wiki.test.raw" 414694 "$3"; }
check_wikitext bf16 "$model" 73.3637
check_wikitext 0.4.1 "$reference/golden/tinymix/llmcompressor_w4a16_v041" 74.0381
check_wikitext 0.14 "$reference/golden/tinymix/llmcompressor_w4a16" 74.0976
check_wikitext "0.14, all experts" "$reference/golden/tinymix/llmcompressor_w4a16_all_experts" 74.2853
