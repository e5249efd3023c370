#!/usr/bin/env bash
# FAULTS 3 on the program: a rank that is stopped for longer than run.watchdog ends the job with a report
# that names it, and leaves no process; one that is stopped for a shorter time changes nothing, nor do
# saves and evaluations, for longer than that; without the watchdog the same job hangs (the control).
#   watchdog.sh PROGRAM FOLDER MPIEXEC...
set -euo pipefail
program=$1 folder=$2
shift 2
launch=("$@")
source "$(dirname "${BASH_SOURCE[0]}")/watched_run.sh"
in_empty_folder "$folder" "$program"

job=0
trap 'kill -KILL $job $(pgrep -P $job) 2>/dev/null || true' EXIT

# start OUTPUT key=value...: in the background, until its first steps are done. Sets job and ranks.
start() {
  local output=$1
  shift
  "${launch[@]}" "$program" train deck.toml run.output="$output" "$@" >"out.$output" 2>&1 </dev/null &
  job=$!
  within 30 steps_of "$output" 3 || failed "$output did not begin"
  mapfile -t ranks < <(pgrep -P "$job")
}
none_left() { for pid in "${ranks[@]}"; do ended "$pid" || return 1; done; }
pid_of() { sed -n 's/^pid //p' "$1/.watchdog/rank-$2"; }

# 1. Stopped for good.
start stopped run.watchdog=2
kill -STOP "$(pid_of stopped 2)"
within 15 ended "$job" || failed "the watchdog did not end the job"
code=0; wait "$job" || code=$?
# Open MPI's mpiexec now and then notices the closed connection before the status, and returns 1 then:
# exit.json, below, is what tells in any case.
((code == 6 || code == 1)) || failed "exit code $code instead of 6"
for part in 'run.watchdog: no rank came on for [0-9]+ s: step [0-9]+, [a-z_]+ #[0-9]+ on group .*: waiting for rank 2 \(' \
  '^  rank 2 \(.*not arrived: no heartbeat for [0-9]+ s: stopped or gone; last ' \
  '^  rank.*: arrived: .* on group .* at [a-z]+/[a-z/_]+\.cpp:[0-9]+, step [0-9]+'; do
  grep -qE -- "$part" out.stopped || failed "the report lacks: $part"
done
(($(grep -c 'run.watchdog: ' out.stopped) == 1)) || failed "more than one report"
grep -q '"code": 6, "reason": "run.watchdog: ' stopped/exit.json || failed "exit.json"
within 5 none_left || failed "a process is left: ${ranks[*]}"
echo "ok: stopped for good"

# 2. Stopped for a shorter time than the limit: the digits of a run that nobody disturbed.
start undisturbed run.watchdog=4 train.steps=150
code=0; wait "$job" || code=$?
((code == 0)) || failed "exit code $code instead of 0"
start paused run.watchdog=4 train.steps=150
pid=$(pid_of paused 1)
kill -STOP "$pid"
sleep 2.4
ended "$job" && failed "the run had ended before it was stopped"
kill -CONT "$pid"
code=0; wait "$job" || code=$?
((code == 0)) || failed "exit code $code instead of 0 after a short stop"
diff <(losses undisturbed) <(losses paused) || failed "other losses after a short stop"
(($(losses paused | wc -l) == 150)) || failed "not 150 steps"
[[ ! -e paused/.watchdog && ! -e paused/.lock ]] || failed "its files are left"
echo "ok: stopped for a while"

# 3. Nothing but saves and evaluations, for longer than the limit.
cp data/train.h5 data/valid.h5
start saving run.watchdog=3 checkpoint.every=1 checkpoint.async=false checkpoint.keep=2 \
  data.valid=data/valid.h5 train.eval_every=1 train.eval_batches=20 train.steps=100000
begin=$SECONDS
has_worked() { (($(grep -c save_s saving/metrics.jsonl) > 3 && $(grep -c eval_s saving/metrics.jsonl) > 3)); }
until ((SECONDS > begin + 7)) && has_worked; do
  ended "$job" && failed "the run ended while it saved and evaluated"
  ((SECONDS < begin + 40)) || failed "there were no saves and evaluations: nothing is shown"
  sleep 0.2
done
kill -TERM "$job"
within 20 ended "$job" || failed "the run does not stop"
! grep -q 'run.watchdog: ' out.saving || failed "a report of a run that came on"
echo "ok: saves and evaluates"

# 4. The control.
start unwatched run.watchdog=0
[[ ! -e unwatched/.watchdog ]] || failed "a watchdog that is off has a folder"
kill -STOP "${ranks[-1]}"
sleep 4
ended "$job" && failed "the job ended without a watchdog: the first case shows nothing"
kill -KILL "${ranks[@]}"
wait "$job" 2>/dev/null || true
echo "ok: hangs without a watchdog"
