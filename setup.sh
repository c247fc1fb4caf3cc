#!/usr/bin/env bash
# Installs what nibble needs to be built and, with `test`, to be tested; `cuda` adds a compiler for the GPU kernels:
#
#   ./setup.sh [build|test|cuda]
#
# Idempotent. Where everything is present it does nothing, in well under a second and without network.
# The versions are those of Debian 12; only its package archive, the crate registry and, for `cuda`, the Python
# package index are contacted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

build_packages=(
  ca-certificates python3 make                                      # tools
  g++ cmake ninja-build ccache mold                                 # GCC 12, CMake 3.25
  nlohmann-json3-dev libfmt-dev libspdlog-dev libcli11-dev libyaml-cpp-dev libhwy-dev libre2-dev
  libssl-dev                                                        # digests
  libopenblas-dev                                                   # loaded at run time for GPTQ
  libgtest-dev libgmock-dev
)
test_packages=(clang-19 libclang-rt-19-dev llvm-19 clang-format-19 clang-tidy-19)

oldest_cargo=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' rust/bridge/Cargo.toml 2>/dev/null || true)
oldest_cargo=${oldest_cargo:-1.85}

fail() {
  printf 'setup.sh: %s\n' "$*" >&2
  exit 1
}

missing_packages() {
  comm -13 <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null |
    sed -n 's/^installed //p' | sort -u) <(printf '%s\n' "$@" | sort -u)
}

cargo_is_new_enough() {
  local found
  found=$(cargo --version 2>/dev/null | awk '{print $2}') && [ -n "$found" ] &&
    printf '%s\n' "$oldest_cargo" "${found%%-*}" | sort -V -C
}

install_packages() {
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "needs root to install $*; run it as root or install sudo"
    sudo=(sudo)
  fi
  echo "setup.sh: installing $*" >&2
  "${sudo[@]}" apt-get update -qq || echo "setup.sh: apt-get update failed; trying the lists at hand" >&2
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >/dev/null ||
    fail "apt-get could not install: $* (see its message above)"
}

has_nvcc() {  # one that cmake/cuda.cmake would take: CUDACXX, or the first in PATH
  local found
  found=$("${CUDACXX:-nvcc}" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p') && [ -n "$found" ] &&
    printf '%s\n' 12.4 "$found" | sort -V -C
}

# Unpacked beside its final name and renamed when whole: a killed run leaves nothing that looks complete.
install_cuda() {
  local folder=${XDG_CACHE_HOME:-$HOME/.cache}/nibble/cuda-13.0
  [ ! -x "$folder/nvidia/cu13/bin/nvcc" ] || return 0
  mkdir -p "${folder%/*}"
  unpacked=$(mktemp -d "$folder.XXXXXX")
  trap 'rm -rf "$unpacked"' EXIT
  echo "setup.sh: fetching the CUDA toolkit (0.9 GB, 1.4 GB unpacked) into $folder" >&2
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --no-cache-dir \
    --target "$unpacked" -r cmake/cuda-requirements.txt ||
    fail "pip could not install cmake/cuda-requirements.txt (see its message above); or put nvcc >= 12.4 in PATH"
  chmod 755 "$unpacked"
  mv -T "$unpacked" "$folder" 2>/dev/null || [ -x "$folder/nvidia/cu13/bin/nvcc" ] ||
    fail "$folder exists and is not a toolkit; remove it and try again"
  trap - EXIT
}

cuda=
case "${1:-build}" in
  build) wanted=("${build_packages[@]}") ;;
  test) wanted=("${build_packages[@]}" "${test_packages[@]}") ;;
  cuda)
    wanted=("${build_packages[@]}")
    has_nvcc || cuda=wheels
    [ -z "$cuda" ] || python3 -m pip --version >/dev/null 2>&1 || wanted+=(python3-pip)
    ;;
  *) fail "unknown argument '$1'; use: ./setup.sh [build|test|cuda]" ;;
esac

command -v dpkg-query >/dev/null ||
  fail "knows only Debian packages. Install by hand: ${wanted[*]}, cargo >= $oldest_cargo"
mapfile -t missing < <(missing_packages "${wanted[@]}")
# Debian's own cargo is of 2022; the one it builds its browsers with is recent.
cargo_is_new_enough || missing+=(cargo-web rustc-web)
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
hash -r
cargo_is_new_enough ||
  fail "needs cargo >= $oldest_cargo, found $(cargo --version 2>&1 || true) at $(command -v cargo || echo nowhere);
remove the old one from PATH: /usr/bin/cargo is Debian's cargo-web"

# Crates are fetched here, so that building needs no network.
if [ -f rust/bridge/Cargo.lock ]; then
  fetch=(cargo fetch --quiet --locked --manifest-path rust/bridge/Cargo.toml)
  "${fetch[@]}" --offline 2>/dev/null || "${fetch[@]}" ||
    fail "cargo could not fetch the crates of rust/bridge (see its message above)"
fi

[ -z "$cuda" ] || install_cuda
