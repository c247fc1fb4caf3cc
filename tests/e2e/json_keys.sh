#!/usr/bin/env bash
# The JSON documents have the keys that docs/cli.md lists, no more and no fewer, also inside lists and objects.
source "$(dirname "$0")/lib.sh"

# json_of NAME COMMAND…: the document that a command prints.
json_of() {
  run "${@:2}"
  case "$status" in 0 | 5) ;; *) show; fail "exit status $status: ${*:2}" ;; esac
  mv "$scratch/out" "$scratch/$1.json"
}

shard=$model/model-00001-of-00002.safetensors
json_of inspect "$nibble" inspect "$model" --json
json_of inspect_tensors "$nibble" inspect "$model" --tensors --json
json_of inspect_file "$nibble" inspect "$shard" --json
json_of verify "$nibble" verify "$model" --json
json_of generate "$nibble" generate "$model" --prompt "Once" --max-tokens 2 --json
printf '{"messages": [{"role": "user", "content": "Once"}]}' >"$scratch/messages"
json_of messages "$nibble" generate "$model" --messages "$scratch/messages" --max-tokens 2 --json
head -c 300 demo/evaluation.txt >"$scratch/text"
json_of perplexity "$nibble" perplexity "$model" --text "$scratch/text" --window 64 --json
json_of baseline "$nibble" perplexity "$model" --text "$scratch/text" --window 64 --baseline "$model" --json
printf '[[1, 2]]' >"$scratch/tokens"
json_of logits "$nibble" logits "$model" --tokens "$scratch/tokens" --out "$scratch/logits.safetensors" --json
json_of pack "$nibble" pack "$model" --out "$scratch/packed" --json
json_of bench_kernels "$nibble" bench kernels --filter "prefill attention, 512 tokens, int8" --repeats 7 --json
json_of bench_decode "$nibble" bench decode "$model" --context 8 --repeats 7 --json
json_of bench_prefill "$nibble" bench prefill "$model" --tokens 8 --repeats 7 --json
json_of bench_load "$nibble" bench load "$model" --repeats 7 --json

python3 - docs/cli.md "$scratch" <<'PY' || fail "docs/cli.md and the program disagree about keys"
import json, pathlib, re, sys

text = pathlib.Path(sys.argv[1]).read_text()
wrong = 0


def words(cell):
    return re.findall(r"`([^`]*)`", cell)


def tables(section):
    """The tables of a section: lists of rows (keys, description, whether they are of the items of the row above)."""
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S).group(1)
    for table in re.findall(r"^\| key \|.*\n\| --- .*\n((?:\|.*\n)+)", body, re.M):
        rows = [line.strip("|\n ").split(" | ", 1) + [""] for line in table.splitlines()]
        yield [(words(row[0]), row[1], row[0].startswith("…")) for row in rows]


def keys(rows):
    return {key for names, _, nested in rows if not nested for key in names}


def description(rows, key):
    return next(text for names, text, nested in rows if key in names and not nested)


def document(name):
    return json.loads(pathlib.Path(sys.argv[2], name + ".json").read_text())


def same(where, found, documented):
    global wrong
    found, documented = set(found), set(documented)
    for key in sorted(found ^ documented):
        print(f"{where}: {key} is {'not documented' if key in found else 'documented, but absent'}")
        wrong = 1


def all_same(where, objects, documented):
    if not objects:
        same(where, [], ["(an item)"])
    for item in objects:
        same(where, item, documented)


directory, file = tables("inspect")
tensor = set(words(description(file, "tensors")))
same("inspect", document("inspect"), keys(directory) - {"tensor_list"})
same("inspect --tensors", document("inspect_tensors"), keys(directory))
all_same("inspect: tensor_list", document("inspect_tensors")["tensor_list"], tensor)
kinds, sizes = map(words, description(directory, "kinds").split("→"))
same("inspect: kinds", set(document("inspect")["kinds"]) | {"other"}, kinds)
all_same("inspect: kinds", document("inspect")["kinds"].values(), sizes)
same("inspect FILE", document("inspect_file"), keys(file))
all_same("inspect FILE: tensors", document("inspect_file")["tensors"], tensor)

(rows,) = tables("verify")
same("verify", document("verify"), keys(rows))
all_same("verify: findings", document("verify")["findings"], words(description(rows, "findings")))

(rows,) = tables("generate")
same("generate", document("generate"), keys(rows) - {"messages"})
nested = {key for names, _, nested in rows if nested for key in names}
all_same("generate: generations", document("generate")["generations"], nested)
same("generate --messages", document("messages"), ["messages"])
all_same("generate: messages", document("messages")["messages"], words(description(rows, "messages"))[2:])

plain, baseline = tables("perplexity")
same("perplexity", document("perplexity"), keys(plain))
same("perplexity --baseline", document("baseline"), keys(plain) - {"perplexity_stderr"} | keys(baseline))

for command in ["logits", "pack"]:
    (rows,) = tables(command)
    same(command, document(command), keys(rows))

(rows,) = tables("bench")
of_kernels = keys(row for row in rows if "kernels" in row[0])
of_machine = {"machine", "backend", "roof"}
of_load = {"packed", "bytes"}
of_steps = keys(rows) - of_kernels - of_load
documented = {
    "bench_kernels": of_machine | of_kernels,
    "bench_decode": of_steps,
    "bench_prefill": of_steps,
    "bench_load": of_machine | of_load | {"seconds", "roof_seconds", "share_of_roof"},
}
for name, names in documented.items():
    found = document(name)
    same(name, found, names)
    same(f"{name}: roof", found["roof"], words(description(rows, "roof")))
all_same("bench_kernels: kernels", document("bench_kernels")["kernels"], words(description(rows, "kernels"))[2:])
sys.exit(wrong)
PY
