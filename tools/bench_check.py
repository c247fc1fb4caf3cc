#!/usr/bin/env python3
"""Has nibble become slower? Times a short set of `nibble bench` on a model of 3 B parameters.

    tools/bench_check.py [--update] [--strict]      beside the last figures for such a CPU in bench/history
    tools/bench_check.py --against PROGRAM          beside another nibble, in turns, several rounds
    tools/bench_check.py -- --threads 1 [FLAG…]     with flags for each `nibble bench`

A ratio above 1 is faster. Rows below 0.90 of the last figures, or below 0.98 of the other program, are named in a
warning. Exit status: 0, also with warnings; 5 with warnings under --strict; 1 if something cannot be run; 2 for a flag.
The model is made once in ~/.cache/nibble/bench (3.5 GB: as a checkpoint, and packed) and kept.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "nibble" / "bench"
PLAIN = CACHE / "3b-w4a16"
PACKED = CACHE / "3b-w4a16-packed"  # the same files, with the packed weights that only loading shall find
CACHE_BYTES = 4e9

# Name of the row: arguments of `nibble bench`. GPTQ has a row for each of its kernels.
STEPS = {
    "decode, 1 sequence": ["decode", PLAIN, "--context", "32"],
    "decode, 16 sequences": ["decode", PLAIN, "--context", "32", "--sequences", "16"],
    "prefill, 512 tokens": ["prefill", PLAIN, "--tokens", "512"],
    "gptq": ["gptq"],
    "load, packed": ["load", PACKED],
}
LEAST_OF_LAST = 0.90  # machines of one kind differ from hour to hour
LEAST_OF_OTHER = 0.98


class Failed(Exception):
    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


def call(command):
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise Failed(f"{' '.join(map(str, command))}: exit status {result.returncode}: {lines[-1]}", result.returncode)
    return result.stdout


def make_models(nibble):
    """Each appears whole or not at all."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="unfinished-") as folder:
        if not PLAIN.exists():
            free = shutil.disk_usage(CACHE).free
            if free < CACHE_BYTES:
                raise Failed(f"{CACHE}: the model takes {CACHE_BYTES / 1e9:.0f} GB and {free / 1e9:.1f} GB are free; "
                             "make room, or set XDG_CACHE_HOME")
            maker = nibble.with_name("make_synthetic_mixtral")
            if not maker.exists():
                raise Failed(f"{maker}: no such program to make the model with; use `make bench-check`")
            print(f"making {PLAIN}", file=sys.stderr)
            made = pathlib.Path(folder) / "plain"
            call([maker, "--preset", "3b", "--format", "w4a16", "--tokenizer", ROOT / "demo" / "tinymix", made])
            made.rename(PLAIN)
        if not PACKED.exists():
            linked = pathlib.Path(folder) / "packed"
            linked.mkdir()
            for file in PLAIN.iterdir():
                os.link(file, linked / file.name)
            linked.rename(PACKED)


def run_step(program, name, flags):
    """The JSON document of one call."""
    command = [program, "--log-level", "error", "bench", *STEPS[name], "--json", *flags]
    document = json.loads(call(command))
    if document.get("packed") is False:  # not yet, or by a program whose packed weights have another layout
        call([program, "--log-level", "error", "pack", PACKED, "--force"])
        document = json.loads(call(command))
        if not document["packed"]:
            raise Failed(f"{PACKED}: {program} does not use the weights it has packed")
    return document


def rows_of(name, document):
    """Rows as they stand in the history: name → figure, unit, share_of_roof."""
    if "kernels" in document:
        return {f"{name}, {kernel['name']}": {"figure": kernel["rate"], "unit": kernel["unit"],
                                              "share_of_roof": kernel["share_of_roof"]}
                for kernel in document["kernels"]}
    unit, key = ("s", "seconds") if "packed" in document else ("tokens/s", "tokens_per_second")
    return {name: {"figure": document[key], "unit": unit, "share_of_roof": document["share_of_roof"]}}


def speedup(row, other):
    """How many times faster `row` is."""
    ratio = row["figure"] / other["figure"]
    return 1 / ratio if row["unit"] == "s" else ratio


def run_once(options):
    """The run as it stands in the history, but for date and commit."""
    run = {}
    for name in options.steps:
        print(f"bench {name}", file=sys.stderr)
        document = run_step(options.nibble, name, options.flags)
        run = run or {key: document[key] for key in ("machine", "backend", "roof")} | {"rows": {}}
        run["rows"] |= rows_of(name, document)
    return run


def run_in_turns(options):
    """A pair for each round: rows of this program, rows of the other. Who begins alternates."""
    rounds = []
    for index in range(options.rounds):
        rounds.append(({}, {}))
        for name in options.steps:
            print(f"round {index + 1} of {options.rounds}: bench {name}", file=sys.stderr)
            for side in (0, 1) if index % 2 == 0 else (1, 0):
                try:
                    document = run_step((options.nibble, options.against)[side], name, options.flags)
                    rounds[index][side].update(rows_of(name, document))
                except Failed as error:
                    if side == 0 or error.status != 2:  # an older program may not know a `nibble bench`
                        raise
    return rounds


def history_file(folder, run):
    """One for each CPU model and instruction set: `cpu (AVX-512 VNNI, 2 threads)` on an `Intel(R) Xeon(R)`."""
    instruction_set = re.sub(r"^cpu \(|,.*$", "", run["backend"])
    name = re.sub(r"\((r|tm)\)", "", f"{run['machine']} {instruction_set}".lower())
    return folder / (re.sub(r"[^a-z0-9]+", "-", name).strip("-") + ".json")


def read_history(file):
    """Its runs, oldest first."""
    try:
        return json.loads(file.read_text())["runs"] if file.exists() else []
    except (ValueError, KeyError) as error:
        raise Failed(f"{file}: not as README.md there describes it ({error!r}); restore or delete it") from error


def describe_roof(roof):
    read, multiply, dot = (roof[key] / 1e9 for key in
                           ("read_bytes_per_second", "float_flops_per_second", "byte_dot_ops_per_second"))
    return f"roof: read {read:.1f} GB/s, float {multiply:.0f} GFLOP/s, byte dot {dot:.0f} GOP/s"


def show(figure):
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def print_comparison(rounds, other, least):
    """A table of medians over rounds, each a pair of rows; `other` names the second. Returns warnings."""
    table = [["row", "figure", "unit", "of roof", other, "ratio", "lowest", "highest"]]
    warnings = []
    for name, first in rounds[0][0].items():
        def median(side, key):
            return statistics.median(pair[side][name][key] for pair in rounds)
        share = f"{median(0, 'share_of_roof'):.0%}"
        line = [name, show(median(0, "figure")), first["unit"], share]
        if name in rounds[0][1]:
            ratios = [speedup(this[name], that[name]) for this, that in rounds]
            ratio, spread = statistics.median(ratios), (f"{min(ratios):.3f}", f"{max(ratios):.3f}")
            line += [show(median(1, "figure")), f"{ratio:.3f}", *spread]
            if ratio < least:
                warnings.append(f"slower: {name}: {ratio:.3f} of the {other} figure ({' to '.join(spread)}); "
                                f"{share} of the roof, not {median(1, 'share_of_roof'):.0%}")
        table.append(line + ["-"] * (len(table[0]) - len(line)))
    if len(rounds) == 1:
        table = [line[:-2] for line in table]  # no spread
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print("  ".join(cell.ljust(width) if heading in ("row", "unit") else cell.rjust(width)
                        for cell, width, heading in zip(line, widths, table[0])))
    print("".join(f"\n{warning}" for warning in warnings))
    return warnings


def check(options):
    """Beside the last figures. Returns warnings."""
    run = run_once(options)
    file = history_file(options.history, run)
    runs = read_history(file)
    last = next((old for old in reversed(runs) if old["backend"] == run["backend"]), None)
    print(f"{run['machine']}; {run['backend']}\n{describe_roof(run['roof'])}")
    print(f"last: {last['date']}, {last['commit']}; {describe_roof(last['roof'])}\n" if last else
          f"last: no run of this backend in {file}\n")
    warnings = print_comparison([(run["rows"], last["rows"] if last else {})], "last", LEAST_OF_LAST)
    if options.update:
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        commit = call(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"]).strip()
        options.history.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"runs": [*runs, {"date": date, "commit": commit} | run]}, indent=2) + "\n")
        print(f"recorded in {file}")
    return warnings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", type=pathlib.Path, default=ROOT / "build" / "release" / "nibble", metavar="PROGRAM")
    parser.add_argument("--history", type=pathlib.Path, default=ROOT / "bench" / "history", metavar="FOLDER")
    parser.add_argument("--against", type=pathlib.Path, metavar="PROGRAM", help="another nibble to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="with --against (default: 5)")
    parser.add_argument("--only", default="", metavar="TEXT", help="steps whose name has this part")
    parser.add_argument("--update", action="store_true", help="record the figures in the history")
    parser.add_argument("--strict", action="store_true", help="exit status 5 if a row is slower")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="for each `nibble bench`")
    options = parser.parse_args()
    options.steps = [name for name in STEPS if options.only in name]
    if not options.steps:
        parser.error(f"--only: no step has \"{options.only}\" in its name; there are: {'; '.join(STEPS)}")
    if options.update and (options.against or options.only):
        parser.error("--update records whole runs of this program, without --against and --only")
    if options.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    try:
        make_models(options.nibble)
        warnings = (print_comparison(run_in_turns(options), "other", LEAST_OF_OTHER) if options.against else
                    check(options))
    except (Failed, OSError) as error:
        print(f"bench_check: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 5 if warnings and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
