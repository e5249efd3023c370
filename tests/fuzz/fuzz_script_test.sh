#!/usr/bin/env bash
# scripts/fuzz.sh among stand-ins for the fuzz programs: a finding of one target fails the whole run,
# is shown, and does not keep the others from running; without one the run succeeds.
set -euo pipefail
source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{build/fuzz,tests/fuzz/corpus}
cp -r "$source_tree/scripts" "$tree"

stand_in() {  # TARGET STATUS
  cat >"$tree/build/fuzz/fuzz_$1" <<END
#!/usr/bin/env bash
echo "\$*" >"$tree/$1.called"
echo "#7 NEW cov: 42 ft: 1"
echo "stat::number_of_executed_units: 1234"
echo "the end of $1"
exit $2
END
  chmod +x "$tree/build/fuzz/fuzz_$1"
}
run() {
  status=0
  output=$(bash "$tree/scripts/fuzz.sh" "$@" 2>&1) || status=$?
}
claim() {  # CLAIM command...
  if ! "${@:2}"; then
    printf 'FAILED %s\n-- status %s, output:\n%s\n' "$1" "$status" "$output"
    exit 1
  fi
}
says() { [[ $output == *"$1"* ]]; }
matches() { [[ $output =~ $1 ]]; }
exits() { [[ $status == "$1" ]]; }

stand_in deck 0
stand_in text 77
stand_in state 0
FUZZ_JOBS=1 run --seconds 3 deck text state
claim a_finding_fails_the_run exits 1
claim the_finding_is_named says "FINDING, build/fuzz/logs/text.log"
claim its_log_is_shown says "the end of text"
claim the_others_run matches 'state +1234 executions, 42 edges, no finding'
claim the_time_is_passed_on grep -q -- '-max_total_time=3 ' "$tree/deck.called"
stand_in text 0
FUZZ_JOBS=2 run --replay deck text state
claim without_a_finding_it_succeeds exits 0
claim a_replay_runs_nothing_new grep -q -- '-runs=0 ' "$tree/text.called"
rm "$tree/build/fuzz/fuzz_deck"
run deck
claim a_missing_program_is_no_success exits 1
echo "8 claims hold"
