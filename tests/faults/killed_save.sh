#!/usr/bin/env bash
# One rank gets SIGKILL in each phase of a save. Whatever the moment, what a resume takes is complete:
# the step before, or the new one once it has its name; and saving goes on in that folder.
#   killed_save.sh PROBE FOLDER START RANKS MPIEXEC...
# Blocking and asynchronous saves take turns; START 0 or 1 says which begin.
set -Eeuo pipefail
probe=$1 folder=$2 turn=$3 ranks=$4
shift 4
launch=("$@" "$ranks")

rm -rf "$folder" && mkdir -p "$folder" && cd "$folder"

# PHASE/RANK=STEP: who dies when step 3 is saved, and which step is then the newest. Rank 0 makes
# the file, gives it its name and prunes step 1; the others only write. (Were it another rank at
# "publish", rank 0 might or might not come to it.)
kills=(layout/0=2 layout/1=2 data/1=2 data:9/0=2 sync/1=2 digest/0=2 digest/1=2 publish/0=2
  published/0=3 prune/0=3 pruned/0=3)
# try PHASE RANK EXPECTED HOW, in a folder of its own; several run at once, since most wait for mpirun
# to notice.
try() {
  local phase=$1 rank=$2 expected=$3 how=$4 status=0 where=$1.$2.$4
  {
    cp -r before "$where"
    "${launch[@]}" "$probe" "$where" die 3 "$rank" "$phase" "$how" || status=$?
    # 137 for SIGKILL, but mpiexec may have noticed the closed connection first. In a phase that never
    # comes nobody dies.
    [[ $status != 0 && -e $where.died ]] || { echo "it ended with $status"; return 1; }
    "$probe" "$where" newest "$expected" || { echo "the newest is not step $expected"; return 1; }
    # The step after it, and what was left behind is in nobody's way.
    "${launch[@]}" "$probe" "$where" save $((expected + 1))
    "$probe" "$where" newest $((expected + 1))
    [[ $(cd "$where" && echo step-*) == "step-00000000$expected step-00000000$((expected + 1))" ]] ||
      { echo "kept: $(ls "$where")"; return 1; }
  } >"$where.log" 2>&1
}

for step in 1 2; do "${launch[@]}" "$probe" before save "$step" >/dev/null; done

hows=(blocking async)
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
for entry in "${kills[@]}"; do
  phase=${entry%%/*} rank=${entry#*/}
  how=${hows[turn++ % 2]}
  try "$phase" "${rank%=*}" "${entry#*=}" "$how" &
  pids+=($!) names+=("$phase.${rank%=*}.$how")
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
