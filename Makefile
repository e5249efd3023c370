# The front door: each target is one script; CMake does the building. `make` lists the targets.
# Variables: TEXT="files or globs" (the text for `make run`), PG_DEPS=none (install no packages),
# FUZZ_SECONDS (of each target of `make fuzz`), SOAK_KILLS and SEED (of `make soak`).
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps build run test test-full test-gpu bench bench-gpu lint format asan fuzz soak clean
MAKEFLAGS += --no-print-directory
export TEXT PG_DEPS FUZZ_SECONDS SOAK_KILLS

help:  # list the targets
	@echo 'usage: make TARGET'
	@awk -F ': .*# ' '/^[a-z-]+: .*# /{printf "  %-10s %s\n", $$1, $$2}' Makefile

deps:  # install the packages that are missing, for all the targets below
	@scripts/install-deps.sh build run test lint fuzz cuda

build:  # build/pentagrid
	@scripts/install-deps.sh build cuda
	@scripts/build.sh

run:  # the quickstart: prepare text, train on 2 ranks, resume (TEXT="my/*.txt" for your own)
	@scripts/install-deps.sh build run cuda
	@scripts/build.sh
	@scripts/quickstart.sh

test:  # build and run the tests (about 15 minutes on 2 cores)
	@scripts/install-deps.sh build test cuda
	@scripts/build.sh --tests
	@scripts/test.sh -LE full

test-full:  # the same with the long ones (about an hour)
	@scripts/install-deps.sh build test cuda
	@scripts/build.sh --tests
	@scripts/test.sh

test-gpu:  # build and run the tests that need a GPU, on one (about half an hour)
	@scripts/install-deps.sh build test cuda
	@scripts/test-gpu.sh

bench:  # build and run the benchmarks
	@scripts/install-deps.sh build test cuda
	@scripts/bench.sh

bench-gpu:  # build and run those of one GPU: kernels, training, and PyTorch where it is
	@scripts/install-deps.sh build test cuda
	@scripts/bench-gpu.sh

lint:  # format, shell scripts, include directions, headers that compile alone, clang-tidy
	@scripts/install-deps.sh build test lint cuda
	@scripts/lint.sh

format:  # format the C++ files in place
	@scripts/install-deps.sh lint
	@scripts/format.sh

asan:  # the tests under AddressSanitizer and UndefinedBehaviorSanitizer, in build/asan
	@scripts/install-deps.sh build test cuda
	@scripts/build.sh --preset asan --tests
	@scripts/test.sh --preset asan -LE full

fuzz:  # fuzz every parser for FUZZ_SECONDS (600) under AddressSanitizer, two at a time
	@scripts/install-deps.sh build test fuzz
	@scripts/build.sh --preset fuzz all
	@scripts/fuzz.sh

soak:  # kill a training run SOAK_KILLS times (50) and compare its digits (SEED=n repeats one)
	@scripts/install-deps.sh build cuda
	@scripts/build.sh
	@scripts/soak.sh $(SEED)

clean:  # remove build/ (runs/ stays)
	@rm -rf build && echo 'clean      build/ is gone'
