#!/usr/bin/env bash
# When a job script requeues its job, and what exit code it ends with: all cases, with stand-ins for
# the program and for Slurm's commands, so that none waits for a scheduler.
#   rules_test.sh SOURCE FOLDER [CONTROL]
# CONTROL is for this script itself: that a broken rule is found.
set -Eeuo pipefail
source=$1 folder=$2 control=${3:-} self=$(realpath "$0")
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND"' ERR

rm -rf "$folder" && mkdir -p "$folder/bin" && cd "$folder"
PATH=$folder/bin:$PATH

# The program. PLAN is shell code: what `train` does, after it has removed the old exit.json (unless
# EARLY=1: it is not there yet). CHECK: what `check` does. Both have $out, the run's folder.
cat >bin/program <<'E'
#!/usr/bin/env bash
out=run
for word in "$@"; do [[ $word != run.output=* ]] || out=${word#*=}; done
if [[ $1 == check ]]; then
  [[ $2 != bad.toml ]] || { echo "bad.toml:1:1: wrong" >&2; exit 2; }
  eval "${CHECK:-:}"
  printf '[run]\nname = "n"\noutput = "%s"\nseed = 1\n\n[grid]\n' "$out"
  exit
fi
echo "$*" >>train.log
mkdir -p "$out/checkpoints"
ended() { printf '{"code": %d, "reason": "%s"}\n' "$1" "$2" >"$out/exit.json.new"
  mv "$out/exit.json.new" "$out/exit.json"; }
saved() { mkdir -p "$out/checkpoints/step-$(printf %09d "$1")"; }
[[ -n ${EARLY:-} ]] || rm -f "$out/exit.json"
eval "$PLAN"
E
# The launchers pass signals on, as both do, and end as their ranks do.
cat >bin/srun <<'E'
#!/usr/bin/env bash
name=${0##*/}
if [[ $* == --mpi=list ]]; then
  # As slow as the real one between its lines, with PAUSE.
  while read -r line; do
    echo "$line" >&2
    sleep "${PAUSE:-0}"
  done <<<"$MPI_LIST"
  exit
fi
echo "$name $*" >>launch.log
while [[ $1 != */program ]]; do shift; done
trap 'kill -USR1 $rank' USR1
"$@" &
rank=$!
until wait "$rank"; status=$?; ! kill -0 "$rank" 2>/dev/null; do :; done
exit "${MASK:-$status}"
E
cp bin/srun bin/mpirun
cat >bin/scontrol <<'E'
#!/usr/bin/env bash
echo "$*" >>scontrol.log
[[ -z ${REFUSE:-} ]] || exit 1
kill -TERM $PPID
E
# Unanswered the first AWAY times.
cat >bin/squeue <<'E'
#!/usr/bin/env bash
echo asked >>squeue.log
if (($(wc -l <squeue.log) <= ${AWAY:-0})); then
  echo "slurm_load_jobs error: Unable to contact slurm controller" >&2
  exit 1
fi
echo "${STATE:-RUNNING}"
E
chmod +x bin/*

# What a run does once it hears USR1.
stops='trap "sleep 0.3; saved 20; ended 75 \"stopped at step 20: SIGUSR1 on rank 0 (n1), resumable\"; exit 75" USR1
touch ready; for _ in {1..200}; do sleep 0.05; done; ended 0 "nobody asked it to stop"'
# rule NAME STATUS REQUEUED [VARIABLE=VALUE...]: one slice. SIGNALS go to the job script once the run
# is there; REQUEUED is what scontrol is asked to requeue, or none.
rule() {
  local name=$1 status=$2 requeued=$3 got=0 signal asked=none
  shift 3
  rm -f scontrol.log squeue.log launch.log ready
  (
    export MPI_LIST='MPI plugin types are... none pmix pmix_v4' PLAN=: PG_PROGRAM=$folder/bin/program
    export PG_ROOT=${ROOT:-$source} SLURM_SUBMIT_DIR=$folder SLURM_JOB_ID=7 SLURM_NTASKS=4
    export SLURM_CPUS_PER_TASK=2 DECK=deck.toml ARGS=a.b=c squeue_pause=0.05 SIGNALS=
    # shellcheck disable=SC2163  # assignments
    export "$@"
    # shellcheck disable=SC2086  # words
    bash "${SCRIPT:-$PG_ROOT/scripts/slurm/train.sbatch}" "$DECK" $ARGS >job.log 2>&1 &
    job=$!
    if [[ -n $SIGNALS ]]; then
      for _ in {1..200}; do [[ ! -e ready ]] || break; sleep 0.02; done
    fi
    for signal in $SIGNALS; do
      kill "-$signal" "$job"
      sleep 0.1
    done
    wait "$job"
  ) || got=$?
  if [[ -e scontrol.log ]]; then asked=$(sed 's/^requeue //' scontrol.log); fi
  # A requeued script is ended by Slurm: 128 + TERM.
  if ((got != status)) || [[ $asked != "$requeued" ]]; then
    echo "FAILED: $name: exit code $got (expected $status), requeued $asked (expected $requeued)"
    cat job.log
    exit 1
  fi
  echo "ok  $name"
}
fresh() { rm -rf run; }

if [[ $control == cancelled ]]; then
  mkdir -p broken/scripts && cp -r "$source/scripts/slurm" broken/scripts/
  sed -i 's/if ((cancelled)); then/if false; then/' broken/scripts/slurm/job.sh
  ROOT=$folder/broken
fi

fresh
rule "a run that is done ends with 0" 0 none PLAN='saved 9; ended 0 done'
rule "a failure is passed on and not requeued" 7 none PLAN='ended 7 nan; exit 7'
rule "a deck that is wrong starts no ranks" 2 none DECK=bad.toml
[[ ! -e launch.log ]]
rule "what a launcher masks is read from exit.json" 4 none PLAN='ended 4 damaged; exit 4' MASK=137
rule "a launcher's 0 without a record is a failure" 6 none PLAN=:
rule "a signal ahead of the limit: requeued" 143 7 PLAN="$stops" SIGNALS=USR1
grep -q 'deck.toml a.b=c checkpoint.resume=auto' train.log
fresh
rule "the second signal does no harm" 143 7 PLAN="$stops" SIGNALS="USR1 USR1"
fresh
rule "after a cancel: never" 75 none PLAN="$stops" SIGNALS="TERM USR1"
fresh
rule "an element of an array by its own name" 143 5_3 PLAN="$stops" SIGNALS=USR1 \
  SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=3
fresh
rule "the run itself saw the limit come: requeued" 143 7 \
  PLAN='saved 9; ended 75 "stopped at step 9: the time limit of Slurm job 7: 9 s left"; exit 75'
rule "a stop file: the run stays stopped" 75 none \
  PLAN='saved 12; ended 75 "stopped at step 12: file run/stop, resumable"; exit 75'
rule "SIGTERM to the ranks: it stays stopped" 75 none \
  PLAN='saved 15; ended 75 "stopped at step 15: SIGTERM on rank 1 (n1), resumable"; exit 75'
rule "a job that is ending already: not requeued" 75 none PLAN="$stops" SIGNALS=USR1 STATE=COMPLETING
fresh
rule "where Slurm refuses, 75 is passed on" 75 7 PLAN="$stops" SIGNALS=USR1 REFUSE=1
fresh
rule "slurmctld is away for a moment: requeued" 143 7 PLAN="$stops" SIGNALS=USR1 AWAY=2
[[ $(wc -l <squeue.log) == 3 ]]
fresh
rule "and its answer counts when it is back" 75 none PLAN="$stops" SIGNALS=USR1 AWAY=2 STATE=COMPLETING
fresh
rule "it stays away: tried all the same" 143 7 PLAN="$stops" SIGNALS=USR1 AWAY=99
fresh
rule "a signal before there are ranks is passed on" 143 7 CHECK='touch ready; sleep 0.3' PLAN="$stops" SIGNALS=USR1
fresh
# The stop file, where the program does not see it or takes it for an old one.
rule "a stop file after the signal: not requeued" 75 none PLAN="${stops/exit 75/touch run/stop; exit 75}" SIGNALS=USR1
[[ ! -e run/stop ]]
touch run/stop
rule "a stop file while the job was pending ends it" 75 none PLAN='ended 0 done' SLURM_RESTART_COUNT=1
[[ ! -e run/stop && ! -e launch.log ]]
grep -q 'file run/stop came while the job was pending' job.log
rule "without one it goes on" 0 none PLAN='ended 0 done' SLURM_RESTART_COUNT=1
touch run/stop
rule "submitting again is a newer wish than the file" 0 none PLAN='ended 0 done'
fresh
idle='ended 75 "SIGUSR1 on rank 0 (n1)"; exit 75'
rule "a slice without a checkpoint: once" 143 7 PLAN="$idle"
rule "and not a second time" 75 none PLAN="$idle"
rule "another job has its own count" 143 8 PLAN="$idle" SLURM_JOB_ID=8
rule "progress starts the count anew" 143 8 PLAN="saved 30; $idle" SLURM_JOB_ID=8
rule "a killed rank: not by default" 137 none PLAN='kill -9 $$'
sed 's/^requeue_on="75" /requeue_on="75 6 137" /' "$source/scripts/slurm/train.sbatch" >mine.sbatch
cmp -s mine.sbatch "$source/scripts/slurm/train.sbatch" && exit 1
rule "a killed rank: where the script says so" 143 7 PLAN='saved 40; kill -9 $$' SCRIPT=mine.sbatch
rule "a signal before the program listens: requeued" 143 7 PLAN='saved 50; touch ready; while :; do sleep 0.05; done' \
  SIGNALS=USR1 EARLY=1
grep -q '^srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=cores .*/program train deck.toml' launch.log
rule "without PMIx it is mpirun" 0 none PLAN='ended 0 done' MPI_LIST='none pmi2'
grep -q '^mpirun -n 4 --bind-to core --map-by slot:PE=2 .*/program train deck.toml' launch.log

rule "a list of launchers that comes in pieces is read to its end" 0 none PLAN='ended 0 done' \
  MPI_LIST=$'MPI plugin types are...\npmix\nnone\nspecific pmix plugin versions available: pmix_v4' PAUSE=0.1
grep -q '^srun ' launch.log

# A sweep of two, then its first run alone once more.
printf '# two runs\na=1\na=2\n' >list
element() { # NAME STATUS ELEMENT COUNT PLAN
  rule "$1" "$2" none SCRIPT="$source/scripts/slurm/sweep.sbatch" ARGS="list sweep" PLAN="$5" \
    SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID="$3" SLURM_ARRAY_TASK_COUNT="$4"
}
shown() { [[ $(awk 'NR > 1 { print $1, $2, $NF }' sweep/summary.txt | paste -sd,) == "$1" ]]; }
element "a sweep's first run to end writes no table" 7 1 2 'ended 7 nan; exit 7'
[[ ! -e sweep/summary.txt ]]
element "its last one does" 0 2 2 'ended 0 done'
shown '1 7 a=1,2 0 a=2'
element "a run submitted again writes it anew" 0 1 1 'ended 0 done'
shown '1 0 a=1,2 0 a=2'

if [[ -z $control ]]; then
  # The control: a script that forgets the cancel is found, by that rule.
  if bash "$self" "$source" "$folder/control" cancelled >control.log; then exit 1; fi
  grep -q 'FAILED: after a cancel: never' control.log
  echo "ok  a broken rule is found"
fi
