#!/usr/bin/env bash
# scripts/fuzz.sh [--seconds N] [--replay] [TARGET...]
# Runs the fuzz targets of build/fuzz (all of them by default), FUZZ_JOBS at a time (else as many as
# there are cores), each for N seconds (FUZZ_SECONDS, else 600) from the corpus in the tree and what earlier runs added
# in build/fuzz/corpus. Prints a line for each: executions, covered edges, findings. A finding is
# written to build/fuzz/findings, is shown, and makes the exit status 1. --replay runs the corpora
# once instead. Of all targets the tests of files go first, under the same sanitizers.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

all=(deck manifest run_json choices metrics token_file state tokenizer text)
seconds=${FUZZ_SECONDS:-600} replay=no targets=()
while (($# > 0)); do
  case $1 in
    --seconds) seconds=$2 && shift ;;
    --replay) replay=yes ;;
    *) targets+=("$1") ;;
  esac
  shift
done
folder=build/fuzz
mkdir -p "$folder/corpus" "$folder/findings" "$folder/logs"

# Slow unwinding would take most of the time.
export ASAN_OPTIONS=fast_unwind_on_malloc=1
export LSAN_OPTIONS=suppressions=$root/scripts/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1
export OMP_NUM_THREADS=1

# MPI's start-up leaks; errors in our code still end the tests.
if ((${#targets[@]} == 0)); then
  targets=("${all[@]}")
  if [[ -x $folder/sanitized_tests ]]; then
    ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 OMPI_ALLOW_RUN_AS_ROOT=1 \
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 quietly "$folder/logs/tests.log" "$folder/sanitized_tests"
    step sanitized "$(grep -oE '[0-9]+ tests from [0-9]+ test suites ran' "$folder/logs/tests.log")"
  fi
fi

# run TARGET: one of them; its line, and its log's end if it failed. What the files may have: inputs
# of 64 KiB (seeds have a few KiB), no allocation of more than 256 MiB, 2 GiB in all, and 20 s.
run() {
  local target=$1 log=$folder/logs/$1.log dictionary=() length=(-max_total_time="$seconds") status=0
  [[ $replay == no ]] || length=(-runs=0)
  [[ ! -f tests/fuzz/dictionaries/$target.dict ]] ||
    dictionary=(-dict="tests/fuzz/dictionaries/$target.dict")
  mkdir -p "$folder/corpus/$target"
  "$folder/fuzz_$target" "${length[@]}" "${dictionary[@]}" -max_len=65536 -timeout=20 \
    -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1 -close_fd_mask=1 \
    -artifact_prefix="$folder/findings/$target-" "$folder/corpus/$target" \
    "tests/fuzz/corpus/$target" >"$log" 2>&1 </dev/null || status=$?
  local executions covered
  executions=$(awk '/stat::number_of_executed_units/ {print $2}' "$log")
  covered=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 || true)
  step fuzz "$(printf '%-10s %9s executions, %s edges, %s' "$target" "${executions:-?}" \
    "${covered#cov: }" "$( ((status == 0)) && echo 'no finding' || echo "FINDING, $log")")"
  ((status == 0)) || tail -n 60 "$log" >&2
  return "$status"
}

failed=0
running=0
jobs=${FUZZ_JOBS:-$(cores)}
for target in "${targets[@]}"; do
  if ((running >= jobs)); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  run "$target" &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || failed=1
  running=$((running - 1))
done
((failed == 0)) || die "a fuzz target found something; its input is in $folder/findings"
