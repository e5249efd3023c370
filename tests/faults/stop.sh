#!/usr/bin/env bash
# FAULTS.md cases 17 and 18 on the program: one run is stopped in every way, slice after slice, and
# ends with the digits of an uninterrupted one; so does one whose wall limit is always over. And how
# whole jobs end: with an idle rank, and (case 4) when data shrinks under one rank.
#   stop.sh PROGRAM FOLDER MPIEXEC NUMPROC_FLAG
set -euo pipefail
program=$1 folder=$2
launch=("$3" "$4")
rm -rf "$folder" && mkdir -p "$folder" && cd "$folder"

for i in $(seq 100 140); do
  for _ in 1 2 3 4 5 6; do echo "line $i of a text that says the same thing again and again"; done
done >text.txt

cat >deck.toml <<'DECK'
[run]
precision = "fp32"
threads = 1
device = "cpu"
[model]
layers = 1
hidden = 16
heads = 2
vocab = 256
[data]
text = ["text.txt"]
tokenizer = "bytes"
train = "train.h5"
[train]
steps = 100
seq = 16
global_batch = 8
micro_batch = 1
[schedule]
kind = "constant"
[checkpoint]
keep = 2
override = ["train.steps"]
DECK

fail() {
  printf 'FAILED: %s\n' "$*"
  if [[ -f ${log:-} ]]; then tail -n 20 "$log"; fi
  if [[ -n ${mpirun:-} ]]; then kill -TERM "$mpirun" || true; fi  # of the function that failed
  exit 1
}
losses() { grep -o '"loss": [^,]*' "$1/metrics.jsonl"; }
steps_of() { if [[ -f $1/metrics.jsonl ]]; then grep -c '"loss"' "$1/metrics.jsonl" || true; else echo 0; fi; }
# The ranks that `mpirun`, process $1, has started, in their order.
ranks_of() { pgrep -P "$1" | sort -n; }

# until_true SECONDS COMMAND...: waits for it to be true.
until_true() {
  local tries=$(($1 * 50))
  shift
  until "$@"; do
    ((tries-- > 0)) || fail "waited for: $*"
    sleep 0.02
  done
}
has_steps() { (($(steps_of "$1") >= $2)); }
is_saving() { compgen -G "$1/checkpoints/.step-*" >/dev/null; }

# stopped NAME RUN REASON WHEN HOW [KEY=VALUE...]: a slice of RUN, in which HOW happens once WHEN
# is true. It ends with 75, says why, and has saved the step that it says.
stopped() {
  local name=$1 run=$2 reason=$3 when=$4 how=$5 code=0
  shift 5
  local before
  before=$(steps_of "$run")
  log=out-$name
  "${launch[@]}" 2 "$program" train deck.toml run.output="$run" checkpoint.resume=auto \
    checkpoint.every=3 train.steps=1000000 "$@" >"$log" 2>&1 </dev/null &
  local mpirun=$!
  case $when in
    steps) until_true 30 has_steps "$run" $((before + 5)) ;;
    saving) until_true 30 has_steps "$run" $((before + 1)) && until_true 30 is_saving "$run" ;;
  esac
  eval "$how"
  wait "$mpirun" || code=$?
  ((code == 75)) || fail "$name: exit code $code, not 75"
  grep -qE "\"code\": 75, \"reason\": \"stopped at step [0-9]+: $reason, resumable\"" \
    "$run/exit.json" || fail "$name: $(cat "$run/exit.json")"
  local step
  step=$(grep -oE 'at step [0-9]+' "$run/exit.json" | grep -oE '[0-9]+')
  [[ -f $(printf '%s/checkpoints/step-%09d/state.h5' "$run" "$step") ]] || fail "$name: no step $step"
  (($(steps_of "$run") == step)) || fail "$name: records go on after step $step"
  ((step > before)) || fail "$name: no progress"
  [[ ! -e $run/stop ]] || fail "$name: the stop file is still there"
  printf 'ok   stopped after step %4d: %s\n' "$step" "$name"
}

# finished RUN [KEY=VALUE...]
finished() {
  local run=$1
  shift
  log=out-finish-$run
  "${launch[@]}" 2 "$program" train deck.toml run.output="$run" checkpoint.resume=auto "$@" \
    >"$log" 2>&1 </dev/null || fail "$run: does not finish"
}

"$program" prepare deck.toml >/dev/null
# 17. By a signal to mpirun or to a rank, once, twice, during a save, by the stop file.
signals() {
  local host='\([^)]+\)'
  stopped usr1-to-mpirun run "SIGUSR1 on rank [01] $host" steps 'kill -USR1 $mpirun'
  stopped usr1-to-rank-1 run "SIGUSR1 on rank [01] $host" steps 'kill -USR1 $(ranks_of $mpirun | tail -n 1)'
  stopped term-twice run "SIGTERM on rank [01] $host" steps \
    'kill -TERM $(ranks_of $mpirun | head -n 1); kill -TERM $(ranks_of $mpirun | head -n 1) || true'
  stopped in-a-save run "SIG(USR1|TERM) on rank [01] $host" saving \
    'kill -USR1 $mpirun; sleep 0.01; kill -TERM $(ranks_of $mpirun) || true'
  stopped in-an-asynchronous-save run "SIG(USR1|TERM) on rank [01] $host" saving \
    'kill -USR1 $mpirun; sleep 0.01; kill -TERM $(ranks_of $mpirun) || true' checkpoint.async=true
  stopped stop-file run 'file run/stop' steps ': >run/stop'
  # How many steps there are only shows now: slices go on while this script looks.
  local steps=$(($(steps_of run) + 20))
  finished run train.steps=$steps
  (($(steps_of run) == steps)) || fail "the run has $(steps_of run) steps, not $steps"
  log=out-reference
  "${launch[@]}" 2 "$program" train deck.toml run.output=reference train.steps=$steps >"$log" 2>&1 \
    </dev/null || fail "the reference"
}

# 18. A limit that has passed before the first step: a step a slice, and the last one is done.
wall_limit() {
  local slice code
  log=out-slice
  for slice in 1 2 3 4; do
    code=0
    "${launch[@]}" 2 "$program" train deck.toml run.output=slices checkpoint.resume=auto \
      train.steps=4 run.wall_limit=1 checkpoint.every=100 >"$log" 2>&1 </dev/null || code=$?
    (($(steps_of slices) >= slice)) || fail "slice $slice makes no step"
    ((code == 0)) && break
    ((code == 75)) || fail "slice $slice: exit code $code"
    grep -q 'run.wall_limit = 1: ' slices/exit.json || fail "$(cat slices/exit.json)"
  done
  # A save is expected to take a second, more than the limit leaves: a step a slice.
  ((code == 0 && slice == 4)) || fail "4 steps are done in $slice slices, with code $code"
  printf 'ok   4 steps in %d slices under a wall limit\n' "$slice"
}

# Three ranks, two of which the grid takes: all of them end with the same code.
idle_ranks() {
  local code=0
  log=out-idle
  # Open MPI ends the others once one has returned a code, unless told otherwise; it then returns 0.
  export OMPI_MCA_orte_abort_on_non_zero_status=0
  # shellcheck disable=SC2016
  local each='"$@"; code=$?; echo $code >"code.$OMPI_COMM_WORLD_RANK$PMI_RANK"; exit $code'
  "${launch[@]}" 3 bash -c "$each" rank "$program" train deck.toml run.output=idle \
    checkpoint.resume=auto grid.tp=2 run.stop_after=3 >"$log" 2>&1 </dev/null || code=$?
  ((code == 0 || code == 75)) || fail "idle: exit code $code"
  [[ $(cat code.*) == $'75\n75\n75' ]] || fail "idle: codes of ranks: $(cat code.*)"
  grep -qE 'warning: grid.dp: 2 of 3 ranks are used, idle: rank 2 \(' "$log" ||
    fail "idle: no warning"
  printf 'ok   an idle rank ends with 75 too\n'
}

# 4. A token file that shrinks under one rank: ranks in folders of their own.
shrunk_data() {
  local code=0
  log=out-shrunk
  mkdir -p other && cp train.h5 other/train.h5
  "${launch[@]}" 1 -wd "$PWD" "$program" train deck.toml \
    run.output="$PWD/shrunk" train.steps=100000 : \
    "$4" 1 -wd "$PWD/other" "$program" train deck.toml >"$log" 2>&1 </dev/null &
  local mpirun=$!
  until_true 30 has_steps shrunk 3
  truncate -s 1000 other/train.h5
  wait "$mpirun" || code=$?
  ((code == 3)) || fail "shrunk: exit code $code"
  grep -qE 'error: rank 1 \([^)]+\): train.h5: .*has shrunk' "$log" || fail "shrunk: no reason"
  grep -q '"code": 3' shrunk/exit.json || fail "shrunk: $(cat shrunk/exit.json)"
  printf 'ok   data that shrinks under one rank ends all with 3\n'
}

# Each part runs beside the others: most of a launch is waiting.
status=0
jobs_=()
for part in signals wall_limit idle_ranks; do
  $part &
  jobs_+=($!)
done
shrunk_data "$@" &
jobs_+=($!)
for job in "${jobs_[@]}"; do wait "$job" || status=1; done
((status == 0)) || exit 1
losses reference >expected
losses run | cmp - expected || fail "other digits after the stops"
losses slices | cmp - <(head -n 4 expected) || fail "other digits after the slices"
echo "all held"
