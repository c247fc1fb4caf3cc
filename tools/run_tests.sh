#!/usr/bin/env bash
# Configures and builds the given presets, then runs the tests of all of them in one list, so that a single
# counted line comes last:
#
#   tools/run_tests.sh release dev tsan fuzz
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p build

for preset in "$@"; do
  echo "== $preset: build"
  [ -f "build/$preset/build.ninja" ] || cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 || {
    cat "build/$preset.configure.log" >&2
    exit 1
  }
  cmake --build --preset "$preset"
done

list=build/tests
mkdir -p "$list"
for preset in "$@"; do
  printf 'subdirs("%s/build/%s")\n' "$PWD" "$preset"
done >"$list/CTestTestfile.cmake"
ctest --test-dir "$list" --parallel "$(nproc)" --output-on-failure --no-tests=error
