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
report=$PWD/$list/report.xml
failed=0
ctest --test-dir "$list" --parallel $((4 * $(nproc))) --output-on-failure --no-tests=error --output-junit "$report" || failed=$?
python3 - "$report" <<'PY'
import sys
import xml.etree.ElementTree as ET

suite = ET.parse(sys.argv[1]).getroot()
total, failed, skipped = (int(suite.get(key)) for key in ("tests", "failures", "skipped"))
print(f"nibble: {total} tests: {total - failed - skipped} passed, {failed} failed, {skipped} skipped")
PY
exit "$failed"
