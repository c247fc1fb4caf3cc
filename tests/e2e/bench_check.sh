#!/usr/bin/env bash
# tools/bench_check.py beside recorded figures and beside another program. The program is a stand-in that prints figures
# instead of measuring them; that the real one prints the same keys is looked at last.
source "$(dirname "$0")/lib.sh"
export XDG_CACHE_HOME=$scratch/cache
history=$scratch/history

# stand_in FOLDER: a `nibble` whose figures are those in FOLDER/figures.json, and what makes the model for it. It
# refuses a bench that has no figures, and finds packed weights only if it has packed them: as programs of other
# layouts do.
stand_in() {
  mkdir -p "$scratch/$1"
  cat >"$scratch/$1/figures.json" <<'JSON'
{"machine": "Acme(R) Core(TM) X", "backend": "cpu (AVX2, 2 threads)", "layout": "1",
 "decode 1": 40, "decode 16": 200, "prefill": 700, "gptq": {"gram 256": 300, "whole linear": 250}, "load": 0.25}
JSON
  cat >"$scratch/$1/nibble" <<'PY'
#!/usr/bin/env python3
import json, pathlib, sys
here = pathlib.Path(__file__).parent
d = json.loads((here / "figures.json").read_text())
words = sys.argv[3:] if sys.argv[1] == "--log-level" else sys.argv[1:]
with open(here.parent / "calls", "a") as calls:
    print(here.name, *words, file=calls)
if words[0] == "pack":
    (pathlib.Path(words[1]) / "nibble-packed.weights").write_text(d["layout"])
    sys.exit(0)
name = f"decode {16 if '16' in words else 1}" if words[1] == "decode" else words[1]
if name not in d:
    sys.exit("nibble: no such bench") if d.get("broken") else sys.exit(2)
roof = {"read_bytes_per_second": 29e9, "float_flops_per_second": 427e9, "byte_dot_ops_per_second": 1.4e12}
result = {"machine": d["machine"], "backend": d["backend"], "roof": roof, "share_of_roof": 0.8}
if name == "gptq":
    result["kernels"] = [{"name": k, "unit": "GFLOP/s", "rate": v, "share_of_roof": v / 427, "seconds": 1}
                         for k, v in d[name].items()]
elif name == "load":
    packed = pathlib.Path(words[2]) / "nibble-packed.weights"
    result |= {"seconds": d[name], "packed": packed.exists() and packed.read_text() == d["layout"]}
else:
    result |= {"seconds": 1, "tokens_per_second": d[name]}
print(json.dumps(result))
PY
  printf '#!/bin/sh\necho maker "$@" >>"%s/calls"\nfor folder; do :; done\nmkdir "$folder" && echo >"$folder/config.json"\n' \
    "$scratch" >"$scratch/$1/make_synthetic_mixtral"
  chmod +x "$scratch/$1"/nibble "$scratch/$1"/make_synthetic_mixtral
}
edit() {  # edit FOLDER PYTHON: changes the figures `d`
  python3 -c 'import json, sys
d = json.load(open(sys.argv[1])); exec(sys.argv[2]); json.dump(d, open(sys.argv[1], "w"))' "$scratch/$1/figures.json" "$2"
}
check() { tools/bench_check.py --nibble "$scratch/this/nibble" --history "$history" "$@"; }
slower() { grep -c '^slower: ' "$scratch/out" || true; }  # warnings of the last run
calls() { grep -cE -- "$1" "$scratch/calls" || true; }
equal() { [ "$2" = "$3" ] || { show; fail "$1: found $2, expected $3"; }; }

# The first run makes and packs the model; nothing is compared, and nothing recorded unasked.
stand_in this
expect 0 'last: no run of this backend in .*/acme-core-x-avx2\.json' check
for row in 'decode, 1 sequence +40 ' 'decode, 16 sequences +200 ' 'prefill, 512 tokens +700 ' 'gptq, gram 256 +300 ' \
  'gptq, whole linear +250 ' 'load, packed +0\.25 '; do
  grep -qE "^$row .* - +-$" "$scratch/out" || { show; fail "no row: $row"; }
done
[ ! -e "$history" ] || fail "recorded without --update"
expect 0 . check --update
run=$(json "$history/acme-core-x-avx2.json" 'len(d["runs"]), sorted(d["runs"][0])')
equal "the run recorded" "$run" "(1, ['backend', 'commit', 'date', 'machine', 'roof', 'rows'])"
row=$(json "$history/acme-core-x-avx2.json" 'd["runs"][0]["rows"]["load, packed"]')
equal "a row recorded" "$row" "{'figure': 0.25, 'unit': 's', 'share_of_roof': 0.8}"
equal "models made" "$(calls ^maker)" 1
equal "models packed" "$(calls 'this pack')" 1
[ -z "$(find "$XDG_CACHE_HOME" -name 'unfinished*')" ] || fail "left remains in the cache"

# Slower than 90 % of the last: named, and a failure only where asked. In seconds more is slower.
edit this 'd["prefill"] = 637; d["load"] = 0.27'
expect 0 'prefill, 512 tokens +637 .* 700 +0\.910$' check --strict
equal "warnings" "$(slower)" 0
edit this 'd["prefill"] = 623; d["load"] = 0.30; d["gptq"]["gram 256"] = 900'
expect 0 '^slower: load, packed: 0\.833 ' check
expect 5 '^slower: prefill, 512 tokens: 0\.890 of the last figure' check --strict
equal "warnings" "$(slower)" 2
grep -qE 'gptq, gram 256 +900 .* 3\.000$' "$scratch/out" || { show; fail "no ratio above 1"; }

# The last run counts, and only one of the same machine, instruction set, threads and activations.
expect 0 'ratio' check --update
expect 0 'prefill, 512 tokens +623 .* 623 +1\.000$' check --strict
for change in 'd["backend"] = "cpu (AVX2, 1 thread)"' 'd["backend"] = "cpu (AVX2, 2 threads, int8 activations)"' \
  'd["backend"] = "cpu (AVX-512 VNNI, 2 threads)"' 'd["machine"] = "Acme Core Y"'; do
  cp "$scratch/this/figures.json" "$scratch/kept"
  edit this "$change"
  expect 0 'last: no run of this backend' check --strict
  mv "$scratch/kept" "$scratch/this/figures.json"
done
printf '<<<<<<< HEAD\n' >"$history/acme-core-x-avx2.json"
expect 1 'acme-core-x-avx2\.json: not as' check
rm -r "$history"

# Beside another program: in turns, within 2 %. It may lack a bench, and may pack in its own way.
stand_in other
edit other 'd["decode 1"] = 30; d["prefill"] = 640; d["layout"] = "2"'
edit this 'd["load"] = 0.25; d["decode 16"] = 197'
: >"$scratch/calls"
against() { check --against "$scratch/other/nibble" --rounds 3 "$@"; }
expect 5 '^slower: prefill, 512 tokens: 0\.973 of the other figure \(0\.973 to 0\.973\)' against --strict
equal "warnings" "$(slower)" 1
grep -qE '^decode, 1 sequence +40 .* 30 +1\.333 +1\.333 +1\.333$' "$scratch/out" || { show; fail "no ratio of 40 to 30"; }
order=$(sed -n 's/ bench gptq.*//p' "$scratch/calls" | paste -sd ' ')
equal "whose turn it was" "$order" "this other other this this other"
edit other 'del d["load"]; d["prefill"] = 620'
expect 0 '^load, packed +0\.25 .* - +- +- +-$' against --strict
edit other 'd["broken"] = True'
expect 1 'other/nibble .* bench load .*: no such bench' against

# Flags.
expect 0 '^gptq, gram 256' check --only gptq -- --threads 1
! grep -q decode "$scratch/out" || fail "--only gptq ran decode"
equal "calls with the flag" "$(calls '^this bench gptq --json --threads 1$')" 1
expect 2 'there are: decode, 1 sequence; ' check --only nothing
expect 2 '--update' against --update
expect 2 '--update' check --update --only gptq
expect 2 '--rounds' against --rounds 0
expect 1 'absent' tools/bench_check.py --nibble "$scratch/absent/nibble"
rm -r "$XDG_CACHE_HOME" "$scratch/this/make_synthetic_mixtral"
expect 1 'make_synthetic_mixtral: no such program' check

# The keys, from the program itself.
reads_json_of() {
  "$nibble" bench "$@" --threads 1 --repeats 7 --json >"$scratch/real.json"
  python3 -B - "$scratch/real.json" <<'PY' || fail "no rows can be made of the JSON of: bench $*"
import json, pathlib, sys
sys.path.insert(0, "tools")
import bench_check
d = json.load(open(sys.argv[1]))
(row,) = bench_check.rows_of("name", d).values()
assert row["figure"] > 0 and row["share_of_roof"] > 0, row
assert bench_check.describe_roof(d["roof"])
assert bench_check.history_file(pathlib.Path("."), d).name.endswith(".json")
PY
}
reads_json_of load "$model"
reads_json_of prefill "$model" --tokens 2
