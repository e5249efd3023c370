#!/usr/bin/env bash
# What a user does by hand: give the nodes back, stop a run, go on with it; ranks started by mpirun
# instead of srun; a rank that is lost where the script says to go on after that. The losses of both
# runs are the same digits.
#   hand_test.sh PROGRAM SOURCE FOLDER
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

prepare_folder
start_cluster
train=$source/scripts/slurm/train.sbatch
grid=(--nodes=2 --ntasks-per-node=2 --cpus-per-task=1 --time=10)
# As a user edits it.
sed 's/^launcher=auto /launcher=mpirun /' "$train" >by_mpirun.sbatch
sed 's/^requeue_on="75" /requeue_on="75 137 6" /' "$train" >patient.sbatch
! cmp -s "$train" by_mpirun.sbatch && ! cmp -s "$train" patient.sbatch
says() { grep -q "^slurm: $2" "pentagrid-$1.out" || fail "job $1 does not say: $2"; } # JOB TEXT
ended_with() { # JOB CODE
  wait_for "job $1 ends" has_ended "$1"
  is "$1" ExitCode "$2:0" || fail "job $1 ended with $(field "$1" ExitCode), not $2"
  show "$1"
}
goes_on_alone() { # JOB RESTARTS
  wait_for "job $1 is requeued" is "$1" Restarts "$2"
  waits_for_its_turn "$1"
}

# 1. By mpirun: the nodes are given back, then a stop file.
first=$(submit "${grid[@]}" by_mpirun.sbatch deck.toml run.output=first)
wait_for "mpirun's ranks train" beyond first 6
scancel --batch --signal=USR1 "$first"
goes_on_alone "$first" 1
says "$first" 'exit code 75 .*SIGUSR1 on rank'
at=$(last_step first)
release "$first"
wait_for "it goes on" beyond first $((at + 3))
touch first/stop
ended_with "$first" 75
says "$first" 'exit code 75 .*file first/stop'
says "$first" 'not requeued: it was asked to stop'
ok "under mpirun: requeued by USR1, stopped by the stop file at step $(last_step first)"

# 2. By srun: a rank is lost, then SIGTERM to the ranks alone.
second=$(submit "${grid[@]}" patient.sbatch deck.toml run.output=second)
wait_for "srun's ranks train" beyond second 12
before=$(last_step second)
scancel --signal=KILL "$second.0"
goes_on_alone "$second" 1
release "$second"
wait_for "it goes on" beyond second "$before"
scancel --signal=TERM "$second"
ended_with "$second" 75
says "$second" 'exit code 75 .*SIGTERM on rank'
ok "under srun: requeued after the loss of its ranks, stopped by SIGTERM at step $(last_step second)"

# 3. The same lines go on to the end, and once more to nothing.
steps=$(($(last_step first) > $(last_step second) ? $(last_step first) : $(last_step second)))
sed -i "s/^steps = .*/steps = $((steps + 5))/" deck.toml
for run in first second; do
  again=$(submit "${grid[@]}" "$train" deck.toml "run.output=$run")
  ended_with "$again" 0
  losses "$run" >"$run.losses"
done
cmp first.losses second.losses || fail "mpirun and srun give other digits"
[[ $(wc -l <first.losses) == $((steps + 5)) ]] || fail "not every step is there once"
again=$(submit "${grid[@]}" "$train" deck.toml run.output=first)
ended_with "$again" 0
grep -q 'nothing to do' "pentagrid-$again.out" || fail "a finished run was not left alone"
ok "both ended with the same $((steps + 5)) losses"
