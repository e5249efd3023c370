#!/usr/bin/env bash
# Sourced by train.sbatch and sweep.sbatch: one slice of a run, from its start to what becomes of the
# job afterwards. Bash and Slurm's own commands only.
#
#   run_slice DECK [section.key=value ...]
#
# starts the run or goes on with it (checkpoint.resume=auto), passes Slurm's signal on, and requeues
# the job when the run stopped because its time was up. Sets `status`, the exit code of the program.
#
# Who ends a job how, and what follows:
#   the time limit is near    USR1 to this shell alone (--signal=B:USR1@s): passed on to the ranks, which
#                             save and return 75; requeued here
#   a node fails              Slurm ends what is left, and requeues by itself (--requeue)
#   scancel                   TERM to this shell and the ranks: they save if they can within KillWait;
#                             never requeued, since that would bring a cancelled job back to life
#   the stop file and others  75 without a USR1: somebody wanted the run to stop, so it stays stopped;
#                             so does a job whose stop file came too late for its ranks, or while it
#                             was pending
set -uo pipefail

program=${PG_PROGRAM:-$PG_ROOT/build/pentagrid}
# Slices in a row that bring no newer checkpoint before the job is left alone: a loop of them would
# only burn the allocation.
max_idle_slices=${max_idle_slices:-2}
# Exit codes after which the job is requeued. 6 (a hang) and 137 (a rank that was killed) may be
# added: the run then goes on from its last checkpoint.
requeue_on=${requeue_on:-75}

say() { printf 'slurm: %s\n' "$*"; }

# The step of the newest checkpoint in FOLDER/checkpoints; -1: none.
newest_step() {
  local entry step newest=-1
  for entry in "$1"/checkpoints/step-*; do
    step=${entry##*/step-}
    [[ -e $entry && $step =~ ^[0-9]+$ ]] || continue
    ((10#$step <= newest)) || newest=$((10#$step))
  done
  echo "$newest"
}

# What distinguishes this slice's exit.json from an earlier one's.
exit_stamp() { stat -c '%i %y' "$1/exit.json" 2>/dev/null || echo none; }

# A field of exit.json, {"code": 75, "reason": "..."}.
exit_code_of() { sed -n 's/.*"code": *\([0-9]*\).*/\1/p' "$1/exit.json" 2>/dev/null; }
exit_reason_of() { sed -n 's/.*"reason": *"\(.*\)".*/\1/p' "$1/exit.json" 2>/dev/null; }

# Starts the ranks in the background, as `ranks`. srun binds them to cores and, with --gpus-per-node,
# shows each all GPUs of its node: rank i of a node takes GPU i; it ends the ranks that are left, a
# stopped one too, when one returns non-zero (run.watchdog relies on it). Open MPI's mpirun starts its own
# daemons through srun and knows the allocation.
start_ranks() {
  local how=${launcher:-auto} plugins
  if [[ $how == auto ]]; then
    how=mpirun
    # Not through a pipe: grep leaves it early, which would be srun's failure.
    plugins=$(srun --mpi=list 2>&1)
    if grep -qw 'pmix.*' <<<"$plugins"; then how=srun; fi
  fi
  case $how in
    srun) srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=cores "$@" & ;;
    mpirun)
      mpirun -n "$SLURM_NTASKS" --bind-to core --map-by "slot:PE=$SRUN_CPUS_PER_TASK" "$@" & ;;
    *)
      say "launcher=$how: is neither auto, srun nor mpirun"
      exit 2
      ;;
  esac
  ranks=$!
  # At once it would be lost: the process that becomes the launcher still has this shell's traps.
  if ((asked)); then
    sleep 1
    on_usr1
  fi
}

# A wait that a trapped signal ends has not seen the end.
wait_for_ranks() {
  while :; do
    interrupted=0
    wait "$ranks"
    status=$?
    ((interrupted)) || break
  done
}

# Signals that this shell gets. A USR1 before the ranks are there is kept for them.
asked=0 cancelled=0 interrupted=0 ranks=
on_usr1() {
  asked=1 interrupted=1
  if [[ -z $ranks ]]; then return; fi
  say "the time limit is near: USR1 to the ranks"
  kill -USR1 "$ranks"
}
on_term() { cancelled=1 interrupted=1; }

# Counts slices without a newer checkpoint, over requeues of this job.
is_idle_loop() { # OUTPUT BEFORE AFTER
  local file=$1/slurm-idle job count=0
  if (($3 > $2)); then
    rm -f "$file"
    return 1
  fi
  if [[ -r $file ]]; then read -r job count <"$file"; fi
  [[ ${job:-} == "$SLURM_JOB_ID" ]] || count=0
  count=$((count + 1))
  mkdir -p "$1" && echo "$SLURM_JOB_ID $count" >"$file"
  ((count >= max_idle_slices))
}

# An element of an array by its own name: the number of the last one is that of the whole array.
job_name() {
  if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  else
    echo "$SLURM_JOB_ID"
  fi
}

# A stop file that lies in OUTPUT is taken away, and obeyed.
take_stop_file() { # OUTPUT
  [[ -e $1/stop ]] && rm -f "$1/stop"
}

# Does not return when the job is requeued: Slurm ends this shell then.
requeue() {
  local job state='' try
  job=$(job_name)
  # slurmctld may be away for a moment. Should it stay so, scontrol has the last word.
  for try in {1..5}; do
    ((try == 1)) || sleep "${squeue_pause:-5}"
    if state=$(timeout 10 squeue -h -j "$job" -o %T); then break; fi
    state=unknown
  done
  if ((cancelled)); then
    say "not requeued here: Slurm ended the job meanwhile"
    return
  elif [[ $state == unknown ]]; then
    say "squeue does not answer: whether job $job is still running is not known"
  elif [[ $state != RUNNING ]]; then
    say "not requeued: job $job is no longer running"
    return
  fi
  say "requeue of job $job"
  trap - TERM
  if scontrol requeue "$job"; then
    for _ in {1..120}; do sleep 1; done
  else
    say "Slurm refuses it here: submit the same command line again, it goes on from step $(newest_step "$output")"
  fi
}

# Whether the run, had it more time, would have gone on: exit.json says why it stopped.
time_was_up() {
  local reason
  reason=$(exit_reason_of "$output")
  [[ $reason == *SIGUSR1* || $reason == *'time limit'* || $reason == *run.wall_limit* ]]
}

run_slice() {
  local deck=$1 checked before after stamp written early=0
  shift
  trap on_usr1 USR1
  trap on_term TERM
  # This also finds what is wrong with the deck before ranks are started.
  checked=$("$program" check "$deck" "$@" 2>&1) || {
    status=$?
    printf '%s\n' "$checked"
    return
  }
  output=$(sed -n '/^\[run\]/,/^\[grid\]/s/^output = "\(.*\)"$/\1/p' <<<"$checked")
  before=$(newest_step "$output")
  stamp=$(exit_stamp "$output")
  say "job $(job_name), slice $((${SLURM_RESTART_COUNT:-0} + 1)) on ${SLURM_JOB_NODELIST:-?}: $deck" \
    "into $output from step $((before < 0 ? 0 : before))"
  # The program takes its start for a newer wish than the file; that of a requeued job is nobody's.
  if ((${SLURM_RESTART_COUNT:-0} > 0)) && take_stop_file "$output"; then
    status=75
    say "exit code 75: file $output/stop came while the job was pending; not requeued"
    return
  fi

  start_ranks "$program" train "$deck" "$@" checkpoint.resume=auto
  wait_for_ranks

  after=$(newest_step "$output")
  # The program begins with removing the old record: none is no record of this slice either.
  written=$(exit_stamp "$output")
  if [[ $written != none && $written != "$stamp" ]]; then
    # A launcher may mask the code; the program's own record does not.
    status=$(exit_code_of "$output")
    say "exit code $status ($(exit_reason_of "$output")), newest checkpoint: step $after"
  else
    # srun has returned 0 for ranks that it could not start.
    if ((status == 0)); then status=6; fi
    say "exit code $status, no exit.json of this slice, newest checkpoint: step $after"
    # USR1 before the program listened ended it, and that is all that happened.
    if ((asked && status == 128 + $(kill -l USR1))); then status=75 early=1; fi
  fi
  [[ " $requeue_on " == *" $status "* ]] || return
  if ((cancelled)); then
    say "not requeued here: Slurm ended the job (a cancel, the time limit, or a node that failed)"
  elif ((status == 75 && !early)) && ! time_was_up; then
    say "not requeued: it was asked to stop, not by its time limit"
  elif take_stop_file "$output"; then
    say "not requeued: file $output/stop"
  elif is_idle_loop "$output" "$before" "$after"; then
    say "not requeued: $max_idle_slices slices in a row brought no checkpoint newer than step $after"
  else
    requeue
  fi
}
