#!/usr/bin/env python3
"""Compares what each GPU kernel takes of a multiprocessor with what it may take.

    tools/check_cuda_budget.py BUILD_FOLDER NVCC_VERSION [--update]

The build keeps what ptxas -v says beside each object (cmake/keep_ptxas_report.sh). A kernel that grew in registers,
stack or shared memory, that spills at all, that is missing from src/backend/cuda/budget.txt, or about which ptxas
has a performance note (C75xx), is a finding: one line each, exit 1. --update writes the file from the build, for a
growth that is meant; spills and notes stay findings. A kernel that shrank is accepted and named. Another compiler
than the one that the file was written with allocates otherwise: then only spills and notes count.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUDGET = ROOT / "src/backend/cuda/budget.txt"
HEADER = """\
# What each kernel may take: bytes of stack and static shared memory, registers a thread. Nothing spills.
# Compared with the build by tools/check_cuda_budget.py, which also writes it (--update).
# nvcc {}
# registers stack shared  architecture  kernel
"""

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
NOTE = re.compile(r"C75\d\d")


def short_names(mangled):
    """Mangled → 'AddRmsNormKernel' or 'SkinnyKernel<16, true>': without namespaces and parameters."""
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), check=True, capture_output=True, text=True)
    names = {}
    for symbol, name in zip(mangled, plain.stdout.splitlines()):
        name = re.sub(r"\((?:anonymous namespace|unsigned \w+|\w+)\)(?:::)?", "", name)  # also the types of (int)16
        name = re.sub(r"\b\w+::", "", name.removeprefix("void "))
        names[symbol] = name.split("(")[0]
    return names


def parse_report(text):
    """Yields ((symbol, architecture), {registers, stack, spills, shared}) of one ptxas report."""
    key, frame = None, (0, 0, 0)
    for line in text.splitlines():
        if match := ENTRY.search(line):
            key, frame = match.groups(), (0, 0, 0)
        elif match := FRAME.search(line):
            if key is not None:
                frame = tuple(map(int, match.groups()))
        elif (match := USED.search(line)) and key is not None:
            shared = SHARED.search(line)
            yield key, {"registers": int(match[1]), "stack": frame[0], "spills": frame[1] + frame[2],
                        "shared": int(shared[1]) if shared else 0}
            key = None


def read_build(folder):
    reports = [path for path in sorted(folder.rglob("*.ptxas")) if path.with_suffix("").exists()]
    if not reports:
        sys.exit(f"check_cuda_budget: no ptxas reports under {folder}: build it first (make cuda)")
    found, notes = {}, []
    for path in reports:
        text = path.read_text()
        found |= dict(parse_report(text))
        notes += [f"{path.name}: {line.strip()}" for line in text.splitlines() if NOTE.search(line)]
    names = short_names(sorted({symbol for symbol, _ in found}))
    kernels = {}
    for (symbol, architecture), use in found.items():
        key = (names[symbol], architecture)
        if key in kernels:
            sys.exit(f"check_cuda_budget: two kernels are called {key[0]}: rename one")
        kernels[key] = use
    return kernels, notes


def read_budget(compiler):
    lines = BUDGET.read_text().splitlines() if BUDGET.exists() else []
    if f"# nvcc {compiler}" not in lines:
        return None
    budget = {}
    for line in lines:
        if line and not line.startswith("#"):
            registers, stack, shared, architecture, name = line.split(maxsplit=4)
            budget[name, architecture] = {"registers": int(registers), "stack": int(stack), "shared": int(shared)}
    return budget


def write_budget(kernels, compiler):
    lines = [f"{use['registers']:3} {use['stack']:5} {use['shared']:6}  {architecture:6}  {name}\n"
             for (name, architecture), use in sorted(kernels.items())]
    BUDGET.write_text(HEADER.format(compiler) + "".join(lines))


def compare(kernels, budget):
    """Findings, and remarks that are none."""
    findings, remarks = [], []
    for (name, architecture), use in sorted(kernels.items()):
        what = f"{name} for {architecture}"
        if use["spills"]:
            findings.append(f"{what} spills {use['spills']} bytes")
        if budget is None:
            continue
        allowed = budget.get((name, architecture))
        if allowed is None:
            findings.append(f"{what} is not in {BUDGET.name}")
            continue
        for unit, limit in allowed.items():
            if use[unit] > limit:
                findings.append(f"{what}: {use[unit]} {unit}, the budget is {limit}")
            elif use[unit] < limit:
                remarks.append(f"{what}: {use[unit]} {unit}, less than the budget of {limit}")
    remarks += [f"{name} for {architecture} is gone" for name, architecture in sorted(set(budget or ()) - set(kernels))]
    return findings, remarks


def main():
    arguments = [word for word in sys.argv[1:] if word != "--update"]
    if len(arguments) != 2:
        sys.exit("usage: check_cuda_budget.py BUILD_FOLDER NVCC_VERSION [--update]")
    folder, compiler = pathlib.Path(arguments[0]), arguments[1]
    kernels, notes = read_build(folder)
    if "--update" in sys.argv[1:]:
        write_budget(kernels, compiler)
    budget = read_budget(compiler)
    findings, remarks = compare(kernels, budget)
    for line in findings + notes:
        print(f"check_cuda_budget: {line}")
    for line in remarks:
        print(f"check_cuda_budget: (good) {line}; --update lowers it")
    if budget is None:
        print(f"check_cuda_budget: {BUDGET.name} is of another nvcc than {compiler}: looked for spills only")
    print(f"check_cuda_budget: {len(kernels)} kernels, {len(findings) + len(notes)} findings")
    return 1 if findings or notes else 0


if __name__ == "__main__":
    sys.exit(main())
