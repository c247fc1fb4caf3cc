#!/usr/bin/env bash
# The generator of random models: its files are whole checkpoints that every command accepts, whatever the thread count.
source "$(dirname "$0")/lib.sh"
make=${NIBBLE_BUILD:-build/release}/make_synthetic_mixtral

"$make" --preset tiny --tokenizer "$model" "$scratch/dense" >/dev/null
"$make" --preset tiny --tokenizer "$model" --threads 1 "$scratch/again" >/dev/null
[ "$(digest_of "$scratch/dense")" = "$(digest_of "$scratch/again")" ] || fail "depends on the number of threads"
"$make" --preset tiny --format w4a16 --tokenizer "$model" "$scratch/packed" >/dev/null
"$make" --preset tiny --format w4a16 --hidden 512 --layers 1 --intermediate 640 --max-shard-size 1000000 "$scratch/other" >/dev/null

expect 0 . "$nibble" inspect "$scratch/dense"
for packed in packed other; do expect 0 . "$nibble" verify "$scratch/$packed"; done
for folder in dense packed; do
  expect 0 . "$nibble" generate "$scratch/$folder" --prompt "Once" --max-tokens 4
done
quantize() { "$nibble" quantize "$scratch/dense" "$scratch/quantized" --calibration demo/calibration.jsonl --samples 8 --max-seq-len 64; }
expect 0 . quantize

expect 1 'not empty' "$make" --preset tiny "$scratch/dense"
expect 1 'vocab' "$make" --preset tiny --vocab 100 --tokenizer "$model" "$scratch/small"
expect 1 'groups' "$make" --preset tiny --format w4a16 --intermediate 200 "$scratch/odd"
