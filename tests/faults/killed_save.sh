#!/usr/bin/env bash
# One rank gets SIGKILL in each phase of a save. Whatever the moment, what a resume takes is complete:
# the step before, or the new one once it has its name; and saving goes on in that folder.
#   killed_save.sh PROBE FOLDER RANKS MPIEXEC...
set -Eeuo pipefail
probe=$1 folder=$2 ranks=$3
shift 3
launch=("$@" "$ranks")

rm -rf "$folder" && mkdir -p "$folder" && cd "$folder"

# Each phase with the step that is then the newest; step 2 is there before, step 3 is saved.
phases=(layout=2 data=2 data:9 sync=2 digest=2 publish=2 published=3 unpruned=3)

# try PHASE RANK EXPECTED, in a folder of its own; several run at once, since most wait for mpirun
# to notice.
try() {
  local phase=$1 rank=$2 expected=$3 status=0 where=$1.$2
  {
    for step in 1 2; do "${launch[@]}" "$probe" "$where" save "$step"; done
    "${launch[@]}" "$probe" "$where" die 3 "$rank" "$phase" || status=$?
    # 137: SIGKILL. A phase that never comes would end with 0.
    ((status == 137)) || { echo "it ended with $status"; return 1; }
    "$probe" "$where" newest "$expected" || { echo "the newest is not step $expected"; return 1; }
    # The step after it, and what was left behind is in nobody's way.
    "${launch[@]}" "$probe" "$where" save $((expected + 1))
    "$probe" "$where" newest $((expected + 1))
    [[ $(cd "$where" && echo step-*) == "step-00000000$expected step-00000000$((expected + 1))" ]] ||
      { echo "kept: $(ls "$where")"; return 1; }
  } >"$where.log" 2>&1
}

failed=0 pids=() names=()
finish() {
  local i
  for i in "${!pids[@]}"; do
    if wait "${pids[i]}"; then
      echo "ok  ${names[i]}"
    else
      echo "FAILED: ${names[i]}"
      tail -n 15 "${names[i]}.log"
      failed=1
    fi
  done
  pids=() names=()
}
turn=0
for entry in "${phases[@]}"; do
  phase=${entry%=*} expected=${entry#*=}
  [[ $entry == *=* ]] || expected=2
  # Rank 0 makes the file and the names, the others only write: they take turns.
  rank=$((turn++ % ranks))
  try "$phase" "$rank" "$expected" &
  pids+=($!) names+=("$phase.$rank")
  if ((${#pids[@]} == 4)); then finish; fi
done
finish

# The control: a newest checkpoint that is not complete is found.
"${launch[@]}" "$probe" control save 1 >/dev/null
mkdir control/step-000000002 && cp control/step-000000001/state.h5 control/step-000000002
if "$probe" control newest 2 >control.log 2>&1; then
  echo "FAILED: an incomplete checkpoint is taken"
  failed=1
fi
exit "$failed"
