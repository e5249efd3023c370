#!/usr/bin/env bash
# Builds and runs the benchmarks: each prints its ratios, measured side by side in one run.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ -f tests/bench/CMakeLists.txt ]] || die "there are no benchmarks yet (tests/bench)"
"$root/scripts/build.sh" --tests bench_training
"$root/build/tests/bench_training" "$@"
