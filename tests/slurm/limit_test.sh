#!/usr/bin/env bash
# One submission of scripts/slurm/train.sbatch goes on through two time limits and a node failure, and
# its losses are those of an uninterrupted run, digit for digit. Meanwhile: a cancelled job stays so,
# and a sweep ends with its table.
#   limit_test.sh PROGRAM SOURCE FOLDER
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

prepare_folder
start_cluster
started=$SECONDS
train=$source/scripts/slurm/train.sbatch
grid=(--nodes=2 --ntasks-per-node=2 --cpus-per-task=1)

# slurmctld looks at time limits every 30 s and sends the signal when it would else be late: a limit
# of a minute with --signal=...@25 ends a slice at the first of these moments that is 5 s or more
# after its start; a start takes some seconds, and more on a busy machine.
limit=(--time=1 --signal=B:USR1@25)
until_next_tick() { echo $((30 - (SECONDS - started) % 30)); }

# 1. A cancelled job ends, and nobody brings it back.
cancelled=$(submit "${grid[@]}" --time=10 "$train" deck.toml run.output=cancelled)
sweep=$(submit --array=1-3 --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --time=10 \
  "$source/scripts/slurm/sweep.sbatch" deck.toml "$here/sweep.txt" sweep)
wait_for "the job to cancel trains" beyond cancelled 10
scancel "$cancelled"
wait_for "it is cancelled" is "$cancelled" JobState CANCELLED

# 2. The limit ends the first slice.
while (($(until_next_tick) > 20 || $(until_next_tick) < 13)); do sleep 1; done
job=$(submit "${grid[@]}" "${limit[@]}" "$train" deck.toml)
slice_ends() { # RESTARTS
  wait_for "slice $1 ends and the job is requeued" is "$job" Restarts "$1"
  waits_for_its_turn "$job"
  show "$job"
  grep -c '^slurm: exit code 75 .*SIGUSR1 on rank' "pentagrid-$job.out" | grep -qx "$1" ||
    fail "it was not the time limit's signal that ended slice $1"
  ok "slice $1 ended at step $(last_step run) and requeued itself"
}
wait_for "the first slice trains" beyond run 5
slice_ends 1
first=$(last_step run)

# 3. And the second one.
while (($(until_next_tick) > 20 || $(until_next_tick) < 13)); do sleep 1; done
release "$job"
wait_for "the second slice goes on" beyond run $((first + 5))
slice_ends 2
second=$(last_step run)

# 4. A node fails under the third, with all that ran on it: Slurm requeues by itself. From here on
# there is time enough.
scontrol update "jobid=$job" TimeLimit=10
release "$job"
wait_for "the third slice goes on" beyond run $((second + 10))
scontrol update nodename=n2 state=down reason=test
"$here/local_cluster.sh" crash n2
wait_for "Slurm requeues it" is "$job" Restarts 3
"$here/local_cluster.sh" boot n2
wait_for "the node is back" node_is_idle n2
waits_for_its_turn "$job"
third=$(last_step run)
ok "the node failed after step $third and the job was requeued"

# 5. The rest, on all nodes again, and the same steps in one go. Only now is it known how many there
# are, since machines are not equally fast.
steps=$((third + 40))
sed -i "s/^steps = .*/steps = $steps/" deck.toml
reference=$(submit "${grid[@]}" --time=10 "$train" deck.toml run.output=reference checkpoint.every=0)
release "$job"
wait_for "the job is done" has_ended "$job"
show "$job"
is "$job" JobState COMPLETED || fail "it did not complete"
is "$job" ExitCode 0:0 || fail "exit code $(field "$job" ExitCode)"
wait_for "the uninterrupted run is done" has_ended "$reference"
is "$reference" JobState COMPLETED || fail "the uninterrupted run did not complete"
losses run >run.losses
losses reference >reference.losses
[[ $(wc -l <reference.losses) == "$steps" ]] || fail "the uninterrupted run has not $steps steps"
cmp run.losses reference.losses || fail "the losses differ"
ok "$steps losses of 4 slices equal those of one: the last is $(tail -n 1 run.losses)"
# A comparison that sees one digit.
sed '$ s/[0-9]$/x/' reference.losses | cmp -s - run.losses && fail "cmp finds nothing"

# 6. What became of the others.
is "$cancelled" JobState CANCELLED || fail "the cancelled job came back"
is "$cancelled" Restarts 0 || fail "the cancelled job was requeued"
show "$cancelled"
grep 'not requeued here: Slurm ended the job' "pentagrid-$cancelled.out" || fail "the job script does not say so"
grep -q '"code": 75' cancelled/exit.json || fail "the cancelled run did not save"
ok "a cancelled job saves and stays cancelled"

# 7. The sweep: three runs of 40 steps that ended with 0, each with its own learning rate and loss.
wait_for "the sweep's table" test -s sweep/summary.txt
cat sweep/summary.txt
is "${sweep}_1" ExitCode 0:0 || fail "the sweep's first element failed"
awk 'NR > 1 && $2 == 0 && $3 == 40 && $4 > 0.1 && $6 > 0 && /train.steps=40 optimizer.lr=/ { runs[$4] }
  END { for (loss in runs) n++; exit !(n == 3 && NR == 4) }' sweep/summary.txt ||
  fail "the table is not of three runs of 40 steps"
ok "the sweep ended with its table"
