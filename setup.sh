#!/usr/bin/env bash
# Installs what nibble needs to be built and, with `test`, to be tested:
#
#   ./setup.sh [build|test]
#
# Idempotent. Where everything is present it does nothing, in well under a second and without network.
# The versions are those of Debian 12; only its package archive and the crate registry are contacted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

build_packages=(
  ca-certificates python3 make                                      # tools
  g++ cmake ninja-build ccache mold                                 # GCC 12, CMake 3.25
  nlohmann-json3-dev libfmt-dev libspdlog-dev libcli11-dev libyaml-cpp-dev libhwy-dev
  libssl-dev                                                        # digests
  libopenblas-dev                                                   # loaded at run time for GPTQ
  libgtest-dev libgmock-dev libbenchmark-dev
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

case "${1:-build}" in
  build) wanted=("${build_packages[@]}") ;;
  test) wanted=("${build_packages[@]}" "${test_packages[@]}") ;;
  *) fail "unknown argument '$1'; use: ./setup.sh [build|test]" ;;
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
