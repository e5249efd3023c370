#!/usr/bin/env bash
# FAULTS.md cases 7 to 10 on the program: whatever happens to checkpoints, a run goes on from the newest one that is
# whole and says which ones it passed over, or ends with 4. Never a fresh start, never success.
#   damaged_resume.sh PROGRAM FOLDER all|some MPIEXEC...
set -euo pipefail
program=$1 folder=$2 amount=$3
shift 3
launch=("$@")

rm -rf "$folder" && mkdir -p "$folder/text" && cd "$folder"
for i in $(seq 100 119); do
  for _ in 1 2 3 4; do echo "line $i of a text that says the same thing again and again"; done >"text/$i.txt"
done

cat >deck.toml <<'DECK'
[run]
output = "run"
precision = "fp32"
threads = 1
[model]
layers = 1
hidden = 16
heads = 2
vocab = 256
[data]
text = "text/*.txt"
tokenizer = "bytes"
train = "train.h5"
[train]
steps = 6
seq = 16
global_batch = 4
micro_batch = 2
[optimizer]
lr = 1e-2
[checkpoint]
every = 2
keep = 0
DECK

# expect CODE PATTERN command...: the exit code, and a line of the output that matches.
expect() {
  local code=$1 pattern=$2 status=0 output
  shift 2
  output=$("$@" 2>&1 </dev/null) || status=$?
  if ((status != code)) || ! grep -qE -- "$pattern" <<<"$output"; then
    printf 'FAILED: %s\n  case: %s\n  exit code %d (expected %d), pattern: %s\n%s\n' \
      "$*" "$what" "$status" "$code" "$pattern" "$output"
    exit 1
  fi
  printf 'ok %3d  %s\n' "$status" "$what"
}
require() {
  "$@" || {
    printf 'FAILED: %s\n  case: %s\n' "$*" "$what"
    exit 1
  }
}
train() { "${launch[@]}" "$program" train deck.toml "$@"; }
losses() { grep -o '"loss": [^,]*' run/metrics.jsonl; }
same_losses() { losses | cmp - expected; }
# A run that was stopped at step 4 and has the checkpoints 2 and 4.
fresh_copy() { rm -rf run && cp -r stopped run; }
entry() { printf 'run/checkpoints/step-%09d' "$1"; }

# One bit of the byte at FILE's OFFSET.
flip() {
  local byte
  byte=$(od -An -tu1 -j "$2" -N 1 "$1")
  # shellcheck disable=SC2059  # the format is the byte
  printf "\\$(printf '%03o' $((byte ^ 4)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
# damage FILE HOW
damage() {
  local size
  size=$(stat -c %s "$1")
  case $2 in
    cut) truncate -s $((size / 2)) "$1" ;;
    emptied) : >"$1" ;;
    flipped) flip "$1" $((size / 2)) ;;
    flipped_first) flip "$1" 0 ;;
    flipped_last) flip "$1" $((size - 1)) ;;
    removed) rm "$1" ;;
    garbage) head -c "$size" /dev/zero | tr '\0' 'x' >"$1" ;;
    dangling) rm "$1" && ln -s nowhere "$1" ;;
    *) return 1 ;;
  esac
}

what="prepare"
expect 0 'documents' "$program" prepare deck.toml
what="an uninterrupted run"
expect 0 'done at step 6' train
losses >expected
mv run reference
what="a run that stops"
expect 75 'saved run/checkpoints/step-000000004' train run.stop_after=4
mv run stopped

what="nothing is damaged"
fresh_copy
expect 0 'resumed step 4 from run/checkpoints/step-000000004 \| [0-9.]+ [KM]iB verified in [0-9.]+ s \| [0-9.]+ [KM]iB a rank' \
  train checkpoint.resume=auto
require same_losses

# Case 7: the newest is damaged, the one before is taken; a path is taken by itself or not at all.
files=(state.h5 run.json deck.toml manifest.json)
if [[ $amount == all ]]; then
  ways=(cut emptied flipped)
else
  files=(state.h5 manifest.json)
  ways=(flipped)
fi
resume=latest
for file in "${files[@]}"; do
  for way in "${ways[@]}"; do
    [[ $resume == latest ]] && resume=auto || resume=latest
    fresh_copy
    damage "$(entry 4)/$file" "$way"
    what="$file $way, $resume"
    expect 0 "step-000000004 passed over: .*$file" train checkpoint.resume=$resume
    require same_losses
    # The damaged one was replaced when its step came again.
    expect 0 'step-000000004  verified' "$program" inspect run
    [[ $way == flipped || $amount == all ]] || continue
    fresh_copy
    damage "$(entry 4)/$file" "$way"
    what="$file $way, by its path"
    expect 4 "step-000000004/$file" train checkpoint.resume="$(entry 4)"
    require cmp run/metrics.jsonl stopped/metrics.jsonl
  done
done
if [[ $amount == all ]]; then
  fresh_copy
  cp -r "$(entry 4)" whole
  size=$(stat -c %s whole/state.h5)
  for ((i = 0; i < 20; ++i)); do
    truncate -s $((size * i / 20)) "$(entry 4)/state.h5"
    what="state.h5 cut to $i of 20 parts"
    expect 4 'state.h5' "$program" inspect "$(entry 4)"
    cp whole/state.h5 "$(entry 4)/state.h5"
    ((i % 2 == 0)) || continue
    flip "$(entry 4)/state.h5" $((size * i / 20 + i))
    what="a bit of byte $((size * i / 20 + i)) of state.h5 flipped"
    expect 4 'state.h5: damaged: the XXH3-128 of chunk 1 of 1 \(bytes 0 to' "$program" inspect "$(entry 4)"
    cp whole/state.h5 "$(entry 4)/state.h5"
  done
  what="put right again"
  expect 0 'verified' "$program" inspect "$(entry 4)"
fi

# Case 8: there are some, none is whole. Nothing is begun, written or removed.
ways=(removed)
[[ $amount == all ]] && ways=(removed emptied garbage dangling flipped_first flipped_last)
for way in "${ways[@]}"; do
  for resume in auto latest; do
    fresh_copy
    for step in 2 4; do damage "$(entry $step)/manifest.json" "$way"; done
    what="every manifest $way, $resume"
    expect 4 'none of its 2 checkpoints is intact: .*step-000000004.*step-000000002' train checkpoint.resume=$resume
    require cmp run/metrics.jsonl stopped/metrics.jsonl
    require grep -q '"code": 4' run/exit.json
    require test "$(ls run/checkpoints | wc -l)" = 2
  done
done
what="entries that are no folders"
fresh_copy
rm -r run/checkpoints/* && : >"$(entry 4)" && ln -s nowhere "$(entry 2)"
expect 4 'none of its 2 checkpoints is intact' train checkpoint.resume=auto

# Case 9: there is none.
rm -rf run
what="latest of nothing"
expect 4 'run/checkpoints: holds no checkpoint to resume from' train checkpoint.resume=latest
what="a path that is not there"
expect 4 'step-000000004: no such checkpoint' train checkpoint.resume="$(entry 4)"
if [[ $amount == all ]]; then
  rm -rf run
  what="auto of nothing is a fresh start"
  expect 0 'done at step 6' train checkpoint.resume=auto
  require same_losses
fi

# Case 10: what is not a checkpoint is left alone, and is none.
fresh_copy
mkdir run/checkpoints/.step-000000006.77 run/checkpoints/step-6 run/checkpoints/step-0000000009 \
  run/checkpoints/step-000000005.bak
echo mine >run/checkpoints/notes.txt
echo mine >"$(entry 4)/notes.txt"
what="foreign files, a stray temporary one"
expect 0 'step-000000004/notes.txt: foreign file, ignored' train checkpoint.resume=latest
require same_losses
for left in notes.txt step-6 step-0000000009 step-000000005.bak step-000000004/notes.txt; do
  require test -e run/checkpoints/$left
done
fresh_copy
mkdir run/checkpoints/.step-000000006.77
what="a stray temporary one is said"
expect 75 'unfinished saves' train checkpoint.resume=auto run.stop_after=5
what="the newest is the highest number"
expect 0 'resumed step 5 from' train checkpoint.resume=auto
require same_losses
echo "all found"
