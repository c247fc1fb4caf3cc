# A thin face over the CMake presets; `make help` lists the targets. Everything is built under build/PRESET.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo test quick install dev tsan clang fuzz cuda bench-check tidy format setup setup-test setup-cuda

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
export NIBBLE_FUZZ_SECONDS = $(FUZZ_SECONDS)

help:  ## This list
	@awk -F ':.*  ## ' '/  ## / && !/awk/ {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: setup build/release/build.ninja  ## build/release/nibble
	cmake --build --preset release --target nibble

demo: build  ## Quantize the demonstration model; compare its text, perplexity and size
	demo/run.sh

test: setup-test  ## Every test: release, ASan + UBSan and fuzzing under Clang, TSan
	tools/run_tests.sh release dev tsan

quick: setup-test  ## Unit and end-to-end tests of the release build only
	tools/run_tests.sh release

install: setup build/release/build.ninja  ## Binary, library, headers and CMake package into PREFIX=/usr/local
	cmake --build --preset release --target nibble nibble_archive
	cmake --install build/release --prefix "$(PREFIX)"

dev tsan clang fuzz: setup-test  ## Build and test that preset alone (FUZZ_SECONDS=60 a fuzz target)
	tools/run_tests.sh $@

cuda: setup-cuda build/cuda/build.ninja  ## Compile the GPU kernels (no GPU needed), check their budget, run their host tests
	cmake --build --preset cuda
	ctest --preset cuda --no-tests=error | tail -n 3

bench-check: setup build/release/build.ninja  ## Speed beside the last figures (UPDATE=1 records) or beside AGAINST=PROGRAM
	cmake --build --preset release --target nibble make_synthetic_mixtral
	tools/bench_check.py $(if $(UPDATE),--update) $(if $(AGAINST),--against "$(AGAINST)") $(BENCH_FLAGS)

tidy: setup-test  ## clang-tidy over src, tools and fuzz
	cmake --preset dev -B build/tidy -DCMAKE_UNITY_BUILD=OFF >/dev/null
	cmake --build build/tidy --target nibble_bridge_build
	tools/clang_tidy.sh build/tidy

format: setup-test  ## clang-format in place
	git ls-files '*.cc' '*.h' '*.cu' '*.cuh' | xargs clang-format-19 -i

setup:
	@./setup.sh build

setup-test:
	@./setup.sh test

setup-cuda:
	@./setup.sh cuda

build/%/build.ninja:
	cmake --preset $*
