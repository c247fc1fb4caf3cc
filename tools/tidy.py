#!/usr/bin/env python3
"""Housekeeping that compilers do not do. Prints one line per finding; exit 1 if there is any.

    tools/tidy.py [--lengths]

Checks: which room includes which, who may include third-party headers, a test beside every source file,
sources named in their CMakeLists.txt, end-to-end scripts and fuzz targets registered, who names flags and
writes to stdout, links in documents, README's figures, comments that tear declarations apart, TODOs with an owner,
words and paths that do not belong in a repository, subjects of commits. --lengths lists the longest files.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# ARCHITECTURE.md, "Rooms": a room includes only lower rows, plus what EXTRA names.
ROWS = [
    ["base"],
    ["tensor"],
    ["checkpoint", "backend", "dist", "text", "data"],
    ["model"],
    ["engine", "quantize"],
    ["server", "eval", "bench"],
    ["cli"],
]
EXTRA = {("data", "text")}
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}

# A folder inside a room: of that room it includes itself and what is named here. Its tests may include all of it.
SUBROOMS = {
    "backend/host": ["backend/buffer.h", "backend/activation.h", "backend/kv_pages.h", "backend/logit_rows.h",
                     "backend/routing.h", "backend/sampling.h"],
    "backend/cpu/algebra": ["backend/gptq_algebra.h", "backend/host/host_data.h"],
    "backend/cpu/kernels": [],
    "backend/cuda/w4": ["backend/cuda/host_device.h", "backend/cuda/launch.h"],
    "quantize/gptq": ["quantize/recipe.h"],
    "quantize/passes": ["quantize/gptq/"],
    "quantize/output": ["quantize/gptq/", "quantize/passes/", "quantize/recipe.h"],
}

# The room that stands behind each public header include/nibble/NAME.h.
PUBLIC = {"error": "base", "engine": "engine", "quantize": "quantize", "evaluate": "eval"}

# Third-party header → the only files that may include it (prefixes): one door each.
DOORS = {
    "CLI/": ["src/cli/"],
    "spdlog/": ["src/base/log.cc"],
    "openssl/": ["src/base/sha256.cc"],
    "yaml-cpp/": ["src/base/yaml.cc"],
    "re2/": ["src/checkpoint/module_pattern.cc"],
    "nlohmann/": ["src/base/json"],
    "nibble_bridge.h": ["src/text/", "src/data/"],
    "hwy/": ["src/backend/cpu/algebra/", "src/quantize/gptq/sweep"],
    "boost/": ["src/server/"],
    "cuda": ["src/backend/cuda/", "src/dist/nccl.cu"],
    "cublas": ["src/backend/cuda/"],
    "cusolver": ["src/backend/cuda/"],
    "dlfcn.h": ["src/backend/cpu/algebra/openblas.cc"],
    "zlib.h": ["src/data/"],
    "zstd.h": ["src/data/"],
}

# Sources without a test of their own name, and what tests them instead.
UNTESTED = {
    "src/model/families/mixtral.cc": "src/model/tensors_test.cc",
    "src/model/family.cc": "src/model/tensors_test.cc",
    "src/backend/cpu/algebra/split_product_amx.cc": "split_product_test.cc, beside it",
    "src/backend/cpu/algebra/split_tiles_amx.cc": "split_product_test.cc, beside it",
    "src/backend/cpu/cpu_backend.cc": "src/backend/backend_test.cc, beside the reference backend",
    "src/backend/cpu/kernels/attention_int8_amx.cc": "src/backend/backend_test.cc: all instruction sets, same bits",
    "src/backend/cpu/kernels/instruction_sets_x86.cc": "a list; src/backend/backend_test.cc runs each entry",
    "src/backend/cpu/kernels/packed_amx.cc": "src/backend/backend_test.cc: all instruction sets, same bits",
    "src/backend/cpu/kernels/table_amx.cc": "src/backend/backend_test.cc: all instruction sets, same bits",
    "src/backend/cpu/kernels/table_avx2.cc": "src/backend/backend_test.cc: all instruction sets, same bits",
    "src/backend/cpu/kernels/table_avx512.cc": "src/backend/backend_test.cc: all instruction sets, same bits",
    "src/backend/cpu/kernels/table_avxvnni.cc": "src/backend/backend_test.cc: all instruction sets, same bits",
    "src/backend/cpu/kernels/table_portable.cc": "src/backend/backend_test.cc: all instruction sets, same bits",
    "src/backend/cuda/linalg_cuda.cc": "src/backend/cuda/emulator/kernels_test.cc, as every kernel",
    "src/backend/cuda/w4/grouped_gemm.cc": "src/backend/cuda/emulator/kernels_test.cc, as every kernel",
    "src/bench/gptq.cc": "it measures; nothing depends on it",
    "src/cli/bench_command.cc": "tests/e2e/streams.sh",
    "src/cli/main.cc": "tests/e2e",
    "src/cli/completion_command.cc": "tests/e2e/completion.sh",
    "src/cli/generate_command.cc": "tests/e2e/generate.sh",
    "src/cli/inspect_command.cc": "tests/e2e/streams.sh",
    "src/cli/loaded_model.cc": "tests/e2e/generate.sh",
    "src/cli/logits_command.cc": "tests/e2e/python_logits.sh",
    "src/cli/pack_command.cc": "tests/e2e/pack.sh",
    "src/cli/perplexity_command.cc": "tests/e2e/golden_perplexity.sh",
    "src/cli/quantize_command.cc": "tests/e2e/quantize.sh",
    "src/cli/verify_command.cc": "tests/e2e/quantize.sh",
    "src/quantize/gptq/linear_solver.cc": "gptq_test.cc, beside it, compares every variant with slow twins",
    "src/quantize/layer_quantizer.cc": "run_test.cc runs it in every mode",
    "src/quantize/output/written_layer.cc": "src/quantize/run_test.cc: what is read back computes the same bits",
}

# Commits that CONTRIBUTING.md's rule about subjects came too late for: everything up to this one.
GRANDFATHER = "305fc6d9ed677c83b29d52238945d1556b4e28f4"

OUTSIDERS = re.compile(  # written so that this file does not match itself
    r"(?<![\w.])/(?:work|root|home|tmp/bash_jobs)/|sub[-]?agent|\bissue (?:show|file)\b|"
    r"(?:index|static)\.crates\.io|pypi\.org|deb\.debian\.org",
    re.IGNORECASE,
)
FLAG = re.compile(r'"(?:[^"\\]|\\.)*(?<![\w-])--[a-z](?:[^"\\]|\\.)*"')
STDOUT = re.compile(r"\bstdout\b|\bstd::cout\b|\bfmt::print\(\s*[^\s(,]*\"")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
TODO = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\([\w-]+\): )")


def tracked_files():
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True)
    return [pathlib.Path(name) for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def read_text(path):
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""  # a binary file


def room_of(path):
    return path.parts[1] if path.parts[0] == "src" and len(path.parts) > 2 else None


def may_include(room, other):
    return other == room or LEVEL[other] < LEVEL[room] or (room, other) in EXTRA


def within_subroom(path, target):
    """Whether a source may include `target` of its own room, by SUBROOMS."""
    for subroom, others in SUBROOMS.items():
        if path.is_relative_to("src/" + subroom) and not path.stem.endswith("_test"):
            return any(target.startswith(prefix) for prefix in [subroom + "/", *others])
    return True


def check_includes(path, text):
    room = room_of(path)
    if room is not None and room not in LEVEL:
        yield 1, f"room '{room}' is not in the table of tools/tidy.py"
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match is None:
            continue
        quoted, target = match.group(1) == '"', match.group(2)
        first = target.split("/")[0]
        for prefix, doors in DOORS.items():
            if target.startswith(prefix) and path.parts[0] == "src":
                if not any(str(path).startswith(door) for door in doors):
                    yield number, f"<{target}> may be included only from {', '.join(doors)}"
        if path.parts[0] == "include" and quoted and first != "nibble":
            yield number, f"a public header includes the private \"{target}\""
        if room is None or not quoted:
            continue
        if first == "nibble":
            name = target.removeprefix("nibble/").removesuffix(".h")
            if name not in PUBLIC:
                yield number, f"public header \"{target}\" is not in the table of tools/tidy.py"
            elif not may_include(room, PUBLIC[name]):
                yield number, f"room '{room}' may not include room '{PUBLIC[name]}' (\"{target}\")"
        elif first in LEVEL:
            if not may_include(room, first):
                yield number, f"room '{room}' may not include room '{first}' (\"{target}\")"
            elif first == room and not within_subroom(path, target):
                yield number, f"{path.parent} may not include \"{target}\": see SUBROOMS in tools/tidy.py"
        elif "/" not in target and target != "nibble_bridge.h":
            yield number, f"include \"{target}\" by its full path from src/"


def check_source_is_built_and_tested(path, lists):
    """`lists` maps a folder to the words of the CMakeLists.txt that builds it."""
    if path.suffix not in {".cc", ".cu"} or path.parts[0] != "src":
        return
    folder = path.parent
    while folder not in lists:
        folder = folder.parent
    if str(path.relative_to(folder)) not in lists[folder]:
        yield 1, f"not listed in {folder}/CMakeLists.txt"
    if path.stem.endswith("_test") or path.stem.startswith("no_"):
        return
    if path.suffix == ".cu" or path.is_relative_to("src/backend/cuda/cases"):
        return  # src/backend/cuda/emulator runs the cases, and so the kernels
    test = path.with_name(path.stem + "_test.cc")
    if str(path) in UNTESTED:
        if (ROOT / test).exists():
            yield 1, "has a test: take it off the list in tools/tidy.py"
    elif not (ROOT / test).exists():
        yield 1, f"has no test {test.name} beside it (or give its reason in tools/tidy.py)"


def check_who_talks_to_the_user(path, text):
    """The library names fields of options, the command line its flags; one file writes to stdout."""
    room = room_of(path)
    if room is None or path.stem.endswith("_test"):
        return
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("//")[0]
        if room != "cli" and FLAG.search(code) and "nibble " not in code:
            yield number, "a message names a flag: name the field in backquotes, src/cli prints the flag"
        if STDOUT.search(code) and path.name != "output.cc":
            yield number, "writes to stdout past src/cli/output.h, where writes are checked"


def check_untested():
    """The table of UNTESTED names sources and tests that exist."""
    path, text = pathlib.Path("tools/tidy.py"), read_text(pathlib.Path("tools/tidy.py"))
    for source, reason in UNTESTED.items():
        line = text[: text.index(f'"{source}"')].count("\n") + 1
        if not (ROOT / source).is_file():
            yield path, line, f"UNTESTED: {source} does not exist"
        for name in re.findall(r"[\w./-]+\.(?:cc|sh)\b|\btests/[\w/]+", reason):
            folders = [pathlib.Path()] if "/" in name else pathlib.Path(source).parents
            if not any((ROOT / folder / name).exists() for folder in folders):
                yield path, line, f"UNTESTED: {name}, which is to test {source}, does not exist"


def heading_anchors(text):
    anchors, fenced = set(), False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and line.startswith("#"):
            title = line.lstrip("#").strip().lower()
            anchors.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return anchors


def check_links(path, text):
    if path.suffix != ".md":
        return
    for number, line in enumerate(text.splitlines(), 1):
        for link in LINK.findall(line):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (ROOT / path.parent / name) if name else ROOT / path
            if not target.exists():
                yield number, f"link to {link}: no such file"
            elif anchor and target.suffix == ".md" and anchor not in heading_anchors(target.read_text()):
                yield number, f"link to {link}: no such heading"


def check_source_comments(path, text):
    """`Source: docs/formats.md#pack-quantized.` in a header must lead somewhere."""
    if path.suffix not in {".h", ".cc"}:
        return
    for number, line in enumerate(text.splitlines(), 1):
        for name, anchor in re.findall(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", line):
            if not (ROOT / name).exists():
                yield number, f"names {name}, which does not exist"
            elif anchor and anchor not in heading_anchors((ROOT / name).read_text()):
                yield number, f"names {name}#{anchor}: no such heading"


def check_comment_form(path, text):
    """clang-format leaves comments alone (ReflowComments: false), since it would tear tables apart.

    A trailing comment that does not fit makes it tear the declaration instead.
    """
    if path.suffix not in {".h", ".cc", ".cu", ".cuh"}:
        return
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > 100 and "//" in line and '"' not in line:
            yield number, f"comment reaches column {len(line)}; the limit is 100"
        rest = re.match(r"\s+([\w\[({\"].*?;)\s+//", line)
        if (rest and re.search(r"[\w>=]$", before) and "//" not in before and before.lstrip()[:1] != "#"
                and len(before) + 1 + len(rest.group(1)) <= 100):
            yield number, "the comment tears the declaration apart: put it above, or make it shorter"
        before = line


def check_words(path, text):
    if path.parts[0] == "demo" or path.name.endswith(".lock") or "corpus" in path.parts:
        return  # other people's texts
    for number, line in enumerate(text.splitlines(), 1):
        if OUTSIDERS.search(line):
            yield number, "names a machine, a host or a working habit; the repository speaks of the software"
        if path != pathlib.Path("tools/tidy.py") and TODO.search(line):
            yield number, "TODO without owner: write TODO(name): what"


def check_scripts_are_registered(files):
    listed = read_text(pathlib.Path("tests/CMakeLists.txt"))
    for path in files:
        if path.match("tests/e2e/*.sh") and not re.search(rf"\b{path.stem}\b", listed):
            if path.stem != "lib":
                yield path, 1, "not listed in tests/CMakeLists.txt"
    fuzz_list = read_text(pathlib.Path("fuzz/CMakeLists.txt"))
    for path in files:
        if path.match("fuzz/*.cc"):
            if not re.search(rf"\b{path.stem}\b", fuzz_list):
                yield path, 1, "not listed in fuzz/CMakeLists.txt"
            if not any((ROOT / "fuzz/corpus" / path.stem).glob("*")):
                yield path, 1, f"has no seeds in fuzz/corpus/{path.stem}"


def check_readme_figures():
    """README.md quotes rows of bench/results.md: figures stand in one place."""
    path = pathlib.Path("README.md")
    _, found, table = read_text(path).partition("(bench/results.md)")
    results = read_text(pathlib.Path("bench/results.md"))  # whole cells, and decimals anywhere
    recorded = set(re.findall(r"\| (\d+) (?=\|)", results)) | set(re.findall(r"\d+\.\d+", results))
    rows = re.match(r"[^|]*\n((?:\|.*\n)+)", table)
    if not found or rows is None:
        yield path, 1, "has no table below its link to bench/results.md"
        return
    for row in rows.group(1).splitlines():
        for figure in re.findall(r"\d+(?:\.\d+)?", " ".join(row.split("|")[2:])):
            if figure not in recorded:
                yield path, 1, f"quotes {figure}, which is not in bench/results.md"


def check_commit_subjects():
    """Subjects of at most 72 columns. Silent outside of git and in a shallow clone."""
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        return
    if git("merge-base", "--is-ancestor", GRANDFATHER, "HEAD").returncode != 0:
        yield pathlib.Path("tools/tidy.py"), 1, "GRANDFATHER is no ancestor of HEAD: has history been rewritten?"
        return
    for line in git("log", "--format=%h %s", f"{GRANDFATHER}..HEAD").stdout.splitlines():
        commit, _, subject = line.partition(" ")
        if len(subject) > 72:
            yield pathlib.Path(f"commit {commit}"), 1, f"subject of {len(subject)} columns; the limit is 72"


def print_lengths(texts):
    lengths = sorted(((text.count("\n"), path) for path, text in texts.items()
                      if path.suffix in {".cc", ".h", ".rs", ".py", ".sh"}), reverse=True)
    for count, path in lengths[:20]:
        print(f"{count:5} {path}")


def main():
    files = tracked_files()
    texts = {path: read_text(path) for path in files}
    if "--lengths" in sys.argv[1:]:
        print_lengths(texts)
        return 0
    lists = {path.parent: set(re.split(r"[\s()]+", text))
             for path, text in texts.items() if path.name == "CMakeLists.txt"}
    findings = list(check_scripts_are_registered(files))
    findings += list(check_untested()) + list(check_readme_figures()) + list(check_commit_subjects())
    for path, text in texts.items():
        checks = [check_links(path, text), check_words(path, text), check_source_comments(path, text),
                  check_comment_form(path, text)]
        if path.suffix in {".cc", ".h", ".cu", ".cuh"}:
            checks += [check_includes(path, text), check_source_is_built_and_tested(path, lists),
                       check_who_talks_to_the_user(path, text)]
        findings += [(path, line, message) for check in checks for line, message in check]
    for path, line, message in findings:
        print(f"{path}:{line}: {message}")
    print(f"tidy: {len(files)} files, {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
