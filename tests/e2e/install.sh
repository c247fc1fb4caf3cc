#!/usr/bin/env bash
# What `make install` leaves behind: a program that runs, and a CMake package that a stranger's project builds against.
source "$(dirname "$0")/lib.sh"
build=${NIBBLE_BUILD:-build/release}
cmake --build "$build" --target nibble_archive >/dev/null
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
expect 0 'nibble [0-9]' "$scratch/prefix/bin/nibble" --version

mkdir "$scratch/consumer"
cat >"$scratch/consumer/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C CXX)
find_package(nibble REQUIRED)
add_executable(consumer consumer.cc)
target_link_libraries(consumer PRIVATE nibble::nibble)
CMAKE
cat >"$scratch/consumer/consumer.cc" <<'CPP'
#include <cstdio>

#include "nibble/error.h"
#include "nibble/quantize.h"

int main(int, char** argv) {
  nibble::QuantizeOptions options;
  options.input = argv[1];
  options.output = argv[2];
  options.recipe.method = "rtn";
  try {
    std::puts(nibble::Quantize(options).files.front().sha256.c_str());
  } catch (const nibble::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
CPP
cmake -S "$scratch/consumer" -B "$scratch/consumer/build" -G Ninja -DCMAKE_PREFIX_PATH="$scratch/prefix" >/dev/null
cmake --build "$scratch/consumer/build" >"$scratch/out" || { cat "$scratch/out" >&2; fail "the consumer does not build"; }
expect 0 '^[0-9a-f]{64}$' "$scratch/consumer/build/consumer" "$model" "$scratch/int4"
expect 0 . "$nibble" verify "$scratch/int4"
expect 1 'not empty' "$scratch/consumer/build/consumer" "$model" "$scratch/int4"
