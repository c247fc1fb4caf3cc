#!/usr/bin/env bash
# Fails where clang-format would change a source file. `make format` repairs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v clang-format-19 >/dev/null || {
  echo "skipped: clang-format-19 is not installed"
  exit 77
}
git ls-files -z '*.cc' '*.h' '*.cu' '*.cuh' | xargs -0 clang-format-19 --dry-run --Werror
