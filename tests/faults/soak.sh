#!/usr/bin/env bash
# One training run on 4 ranks that is killed again and again: SIGKILL of a random rank at a random
# moment, many of them inside a save, and each time started with the same command line. Every start
# must go on from the newest checkpoint there is, no more than one interval may be lost, and in the
# end the losses are those of an uninterrupted run, digit for digit.
#
#   soak.sh PROGRAM FOLDER KILLS INSIDE HIDDEN SEED SABOTAGE MPIEXEC...
#
# KILLS in all, at least INSIDE of them inside a save (up to 10 more kills where a save was faster than
# its kill); HIDDEN sets the size of the state. SABOTAGE is for the controls: none, drop (the first kill
# waits for a checkpoint, which then vanishes) or digits (the last start has another beta2). Blocking
# and asynchronous saves take turns.
set -Eeuo pipefail
program=$1 folder=$2 kills=$3 inside_wanted=$4 hidden=$5 seed=$6 sabotage=$7
shift 7
launch=("$@")
every=4
RANDOM=$seed

fail() {
  trap - ERR
  {
    printf 'FAILED: %s (seed %s)\n' "$*" "$seed"
    if [[ $BASHPID == "$$" ]]; then tail -n 25 "$folder/slice.log" 2>/dev/null || true; fi
  } >&2
  exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
milliseconds() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
pause() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; } # MILLISECONDS
random() { echo $(((RANDOM * 32768 + RANDOM) % $1)); } # below $1

# Nothing may outlive this script.
mpirun=
trap '[[ -z $mpirun ]] || kill -9 "$mpirun" "${pids[@]}" 2>/dev/null || true' EXIT
pids=()

rm -rf "$folder" && mkdir -p "$folder/text" && cd "$folder"
awk 'BEGIN { x = 1; for (n = 0; n < 9000; n++) { x = (x * 16807) % 2147483647; printf "%x ", x % 4096 } }' \
  >text/1.txt
deck() { # STEPS
  cat >deck.toml <<DECK
[run]
output = "run"
precision = "fp32"
device = "cpu"
threads = 1
seed = $((seed % 1000))
[grid]
tp = 2
zero = 1
[model]
layers = 4
hidden = $hidden
heads = 4
vocab = 256
dropout = 0.1
[data]
text = "text/1.txt"
tokenizer = "bytes"
train = "data/train.h5"
[train]
steps = $1
seq = 16
global_batch = 4
micro_batch = 2
[optimizer]
lr = 1e-3
[schedule]
kind = "constant"
warmup = 3
[checkpoint]
every = $every
keep = 2
override = ["train.steps", "optimizer.beta2"]
[log]
every = 1
DECK
}
deck 1000000
"$program" prepare deck.toml >prepare.log
printf 'soak: %d kills, at least %d inside a save; seed %d\n' "$kills" "$inside_wanted" "$seed"

# The last step with a complete record, and the step of the newest checkpoint; 0: none.
last_step() {
  local step
  step=$({ sed -n 's/^{"step": \([0-9]*\), "loss": .*}$/\1/p' run/metrics.jsonl 2>/dev/null || true; } |
    tail -n 1)
  echo "${step:-0}"
}
newest() {
  local entry step=0
  for entry in run/checkpoints/step-*; do
    [[ ! -e $entry ]] || step=$((10#${entry##*-}))
  done
  echo "$step"
}
losses() { sed -n 's/^{"step": \([0-9]*\), "loss": \([^,]*\),.*}$/\1 \2/p' "$1/metrics.jsonl"; }

# An unfinished entry that this slice has begun; what is being pruned has such a name too.
unfinished() {
  local entry
  for entry in run/checkpoints/.step-*; do
    if [[ -e $entry && $entry -nt started && ! $entry =~ \.(pruned|replaced|undone)$ ]]; then
      echo "$entry"
      return
    fi
  done
}

started_at() { # PID: its start time, to tell it from a later process with its number
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != Z ]] && echo "${fields[19]}"
}
# The children of mpirun that train: `pids` and their start times `births`.
find_ranks() {
  local stat fields pid
  pids=() births=()
  for stat in /proc/[0-9]*/stat; do
    { read -r fields <"$stat"; } 2>/dev/null || continue
    [[ $fields == *"(pentagrid) "?" $mpirun "* ]] || continue
    pid=${fields%% *}
    [[ $pid =~ ^[1-9][0-9]+$ ]] || continue
    births+=("$(started_at "$pid" || echo gone)")
    pids+=("$pid")
  done
  ((${#pids[@]} == 4))
}

start_slice() { # OVERRIDES...
  : >started
  sleep 0.01  # what comes is newer
  "${launch[@]}" "$program" train deck.toml checkpoint.resume=auto "$@" >slice.log 2>&1 </dev/null &
  mpirun=$!
}

# What the banner says must be what lay there.
check_resumption() { # EXPECTED
  local said
  said=$(sed -n 's/^ *resumed *step \([0-9]*\) from .*/\1/p' slice.log | head -n 1)
  if [[ -z $said ]] && ! grep -q '^ *output ' slice.log; then return; fi  # killed before it
  ((${said:-0} == $1)) || fail "it resumed at step ${said:-0}, and the newest checkpoint is of step $1"
}

# Waits for a save to begin, or for it to be the time; then kills one rank.
kill_inside() {
  local skip entry past=
  skip=$(random 3)
  while :; do
    entry=$(unfinished)
    if ! kill -0 "$mpirun" 2>/dev/null; then fail "the run ended before it was killed"; fi
    if [[ -z $entry || $entry == "$past" ]]; then
      sleep 0.002
      continue
    fi
    past=$entry
    if ((skip-- > 0)); then continue; fi
    pause "$(random "$((save_ms + 1))")"
    # Committed meanwhile: the next one then.
    if [[ -e $entry ]]; then break; fi
  done
  kill -9 "$victim"
  unfinished_entry=$entry
}
kill_anywhere() {
  pause "$(random "$((start_ms + 3 * interval_ms))")"
  unfinished_entry=$(unfinished)
  kill -9 "$victim" 2>/dev/null || fail "the run ended before it was killed"
}

# Estimates of how long things take, for choosing moments; a first slice measures them.
save_ms=50 start_ms=1000 interval_ms=100
measure() {
  local begun
  begun=$(milliseconds)
  start_slice run.stop_after=$((2 * every)) run.output=measured
  wait "$mpirun" && fail "the measured run did not stop"
  mpirun=
  save_ms=$(sed -n 's/^saved .*iB | \([0-9.]*\) s.*/\1/p' slice.log |
    awk '{ if ($1 > most) most = $1 } END { printf "%d", 1000 * most + 5 }')
  local trained
  trained=$(sed -n 's/^stopped .* tokens in \([0-9.]*\) s.*/\1/p' slice.log |
    awk '{ printf "%d", 1000 * $1 + 5 }')
  interval_ms=$((trained / 2))
  start_ms=$(($(milliseconds) - begun - trained))
  rm -rf measured
  printf 'soak: a save takes %d ms, an interval %d ms, a start %d ms\n' "$save_ms" "$interval_ms" \
    "$start_ms"
}
measure

inside=0 in_async=0 slowest=0 lost_most=0 dropped=0
for ((n = 1; n <= kills || (inside < inside_wanted && n <= kills + 10); ++n)); do
  expected=$(newest)
  recorded=$(last_step)
  if ((dropped)); then expected=$dropped; fi
  async=$([[ $((n % 2)) == 0 ]] && echo true || echo false)
  start_slice "checkpoint.async=$async"
  for ((try = 0; try < 3000; ++try)); do
    if find_ranks; then break; fi
    sleep 0.01
  done
  ((${#pids[@]} == 4)) || fail "4 ranks were not started"
  victim=${pids[$(random 4)]}
  if [[ $sabotage == drop ]] && ((!dropped)); then
    # Kills alone can come before every checkpoint, and then there is nothing to lose.
    while [[ $(newest) == 0 ]]; do
      kill -0 "$mpirun" 2>/dev/null || fail "the run ended before it had saved"
      sleep 0.01
    done
  fi
  # As many as are still wanted, else a third of them.
  if ((kills - n < inside_wanted - inside || RANDOM % 3 == 0)); then kill_inside; else kill_anywhere; fi
  killed=$(milliseconds)

  status=0
  wait "$mpirun" || status=$?
  took=$(($(milliseconds) - killed))
  mpirun=
  ((status != 0)) || fail "mpirun returned 0 after kill $n"
  ((took < 10000)) || fail "mpirun took $took ms to end after kill $n"
  ((took <= slowest)) || slowest=$took
  for ((i = 0; i < 4; ++i)); do
    for ((try = 0; try < 500; ++try)); do
      [[ $(started_at "${pids[i]}" || echo gone) == "${births[i]}" && ${births[i]} != gone ]] || break
      sleep 0.02
    done
    ((try < 500)) || fail "rank process ${pids[i]} outlived kill $n by 10 s"
  done
  check_resumption "$expected"

  # Inside a save: its unfinished entry was there when the rank died, and nothing came of it.
  where=outside
  if [[ -n $unfinished_entry ]]; then
    of_step=${unfinished_entry##*/.}
    of_step=${of_step%%.*}
    if [[ ! -e run/checkpoints/$of_step ]]; then
      where=inside
      inside=$((inside + 1))
      [[ $async == false ]] || in_async=$((in_async + 1))
    fi
  fi
  step=$(last_step) saved=$(newest)
  lost=$((step - saved))
  # What was written in the background while training went on is at most the next interval, whose last
  # step has its record before the save after it waits.
  allowed=$every
  if [[ $async == true ]]; then allowed=$((2 * every)); fi
  # With one taken away, it is what the next start says of itself that must be found.
  if ((!dropped && (step != recorded || saved != expected))); then
    ((lost <= allowed)) || fail "kill $n: step $step was done, step $saved is saved: $lost steps lost"
    ((lost <= lost_most)) || lost_most=$lost
  fi
  ((dropped || saved >= expected)) || fail "kill $n: checkpoint $expected was there and is not"
  printf 'kill %2d  %-7s  async %-5s  step %3d, saved %3d, lost %d  ended in %4d ms\n' "$n" "$where" \
    "$async" "$step" "$saved" "$lost" "$took"
  if [[ $sabotage == drop ]] && ((saved > 0 && !dropped)); then
    rm -rf "run/checkpoints/$(printf 'step-%09d' "$saved")"
    dropped=$saved
  fi
done

# The rest in one go, and the same steps without a stop.
expected=$(newest)
if ((dropped)); then expected=$dropped; fi
steps=$(($(last_step) + 5))
deck "$steps"
last=()
if [[ $sabotage == digits ]]; then last=(optimizer.beta2=0.9); fi
start_slice "${last[@]}"
wait "$mpirun" || fail "the last slice failed"
mpirun=
check_resumption "$expected"
start_slice run.output=reference checkpoint.every=0
wait "$mpirun" || fail "the uninterrupted run failed"
mpirun=
losses run >run.losses
losses reference >reference.losses
[[ $(awk '{ print $1 }' run.losses) == "$(seq "$steps")" ]] || fail "not every step is there once"
cmp run.losses reference.losses || fail "the losses differ from those of an uninterrupted run"
((inside >= inside_wanted)) || fail "only $inside of $((n - 1)) kills were inside a save"
size=$(du -sm run/checkpoints/step-* | tail -n 1 | cut -f 1)
printf 'soak: %d kills, %d inside a save (%d of these asynchronous); %d steps, state %d MiB; ' \
  "$((n - 1))" "$inside" "$in_async" "$steps" "$size"
printf 'at most %d steps lost (interval %d); mpirun ended within %d ms; ' "$lost_most" "$every" "$slowest"
printf '%d losses equal, last %s\n' "$(wc -l <run.losses)" "$(tail -n 1 run.losses)"
