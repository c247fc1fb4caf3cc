#!/usr/bin/env bash
# Checks every GPU kernel against float64 on this machine's GPU, then times them beside the ceilings of the same run:
#
#   tools/gpu_check.sh [FOLDER [FLAG…]]
#
# Writes report.txt and report.json into FOLDER (default: build/gpu), flags go to nibble_gpu_bench (--filter TEXT,
# --check-only, --seed N). Takes at most ten minutes. A program built elsewhere by `make cuda` is used as it is
# (build/cuda/nibble_gpu_bench); otherwise it is built here. Exit status: 0 all right, 1 a kernel is wrong or the build
# failed, 77 something is missing here, and the message says what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-build/gpu}
shift || true

missing() {
  printf 'gpu_check: skipped: %s\n' "$*" >&2
  exit 77
}

[ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || command -v nvidia-smi >/dev/null ||
  missing "no NVIDIA GPU here (no /dev/nvidiactl, no nvidia-smi)"
program=build/cuda/nibble_gpu_bench
if [ ! -x "$program" ]; then
  command -v cmake >/dev/null || missing "$program is not built and there is no cmake: run make cuda where there is one"
  nvcc=${CUDACXX:-$(command -v nvcc || echo "${XDG_CACHE_HOME:-$HOME/.cache}/nibble/cuda-13.0/nvidia/cu13/bin/nvcc")}
  [ -x "$nvcc" ] || missing "$program is not built and there is no nvcc: run ./setup.sh cuda, or make cuda elsewhere"
  mkdir -p build
  { cmake --preset cuda && cmake --build --preset cuda --parallel --target nibble_gpu_bench; } >build/cuda.log 2>&1 || {
    tail -n 20 build/cuda.log >&2
    echo "gpu_check: the build failed, see build/cuda.log" >&2
    exit 1
  }
fi
# CUDA's libraries: those of the toolkit here, or of a Python environment, where the program's own are not.
for place in /usr/local/cuda/lib64 "$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0] + "/cu13/lib")' 2>/dev/null)"; do
  [ ! -d "$place" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$place
done
lost=$(ldd "$program" | awk '/not found/ {print $1}' | paste -sd ' ')
[ -z "$lost" ] || missing "libraries are not found: $lost; add their folder to LD_LIBRARY_PATH (the CUDA toolkit's lib64)"

mkdir -p "$folder"
{ date -u +%FT%TZ && git rev-parse HEAD 2>/dev/null && nvidia-smi 2>/dev/null; } >"$folder/machine.txt" || true
timeout 600 "$program" --json "$folder/report.json" "$@" | tee "$folder/report.txt"
