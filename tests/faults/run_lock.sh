#!/usr/bin/env bash
# FAULTS 19 on the program: a second job on one output folder is refused and names the owner; after a
# SIGKILL the lock that is left is taken over.
#   run_lock.sh PROGRAM FOLDER
set -euo pipefail
program=$1 folder=$2
source "$(dirname "${BASH_SOURCE[0]}")/watched_run.sh"
in_empty_folder "$folder" "$program"

"$program" train deck.toml >out.first 2>&1 &
job=$!
trap 'kill -KILL $job 2>/dev/null || true' EXIT
within 30 steps_of run 2 || failed "the first job did not begin"

code=0
"$program" train deck.toml checkpoint.resume=auto >out.second 2>&1 || code=$?
((code == 2)) || failed "the second job: exit code $code instead of 2"
grep -qE "^pentagrid: error: run.output: run is in use by process $job on .*, since 20" out.second ||
  failed "the second job does not name the owner"
[[ ! -e run/exit.json ]] || failed "the second job wrote into the first one's folder"
before=$(wc -l <run/metrics.jsonl)
steps_after() { steps_of run $((before + 2)); }
within 30 steps_after || failed "the first job did not go on"
echo "ok: refused"

kill -KILL "$job"
wait "$job" 2>/dev/null || true
[[ -e run/.lock ]] || failed "a killed job left no lock: nothing is shown"
code=0
"$program" train deck.toml checkpoint.resume=auto run.stop_after=1 >out.third 2>&1 || code=$?
grep -q "run/.lock: was left by process $job on .*, which is gone; taken over" out.third ||
  failed "the stale lock was not taken over"
[[ ! -e run/.lock ]] || failed "the lock is left"
echo "ok: taken over"
