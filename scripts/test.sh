#!/usr/bin/env bash
# scripts/test.sh [--preset NAME] [ctest options...]
# Runs the tests of a built folder. A test states how many ranks it starts (PROCESSORS); most ranks
# wait for messages now and then, so that twice the cores keeps the machine busy. The last lines
# are ctest's summary.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

folder=build
if [[ ${1:-} == --preset ]]; then
  folder=build/$2
  shift 2
fi
if [[ $folder == build/asan ]]; then
  export ASAN_OPTIONS=fast_unwind_on_malloc=0:detect_stack_use_after_return=1
  export LSAN_OPTIONS=suppressions=$root/scripts/lsan.supp:print_suppressions=0
  export UBSAN_OPTIONS=print_stacktrace=1
fi
step test "$folder"
ctest --test-dir "$folder" --output-on-failure --no-tests=error --no-label-summary \
  -j "$((2 * $(cores)))" "$@" </dev/null
