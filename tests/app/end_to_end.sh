#!/usr/bin/env bash
# The program as its user runs it: text to tokens, a run that stops with 75, its resumption, what is left on
# disk, and the refusals with their exit codes and one-line reasons.
#   end_to_end.sh PROGRAM FOLDER MPIEXEC...
set -euo pipefail
program=$1 folder=$2
shift 2
launch=("$@")

rm -rf "$folder" && mkdir -p "$folder/text" && cd "$folder"
# More than 64 files: every 64th is held out for validation.
for i in $(seq 100 199); do
  for _ in 1 2 3 4 5 6; do echo "line $i of a text that says the same thing again and again"; done \
    >"text/$i.txt"
done
gzip text/15*.txt

cat >deck.toml <<'DECK'
[run]
output = "run"
precision = "fp32"
threads = 1
[model]
layers = 2
hidden = 32
heads = 4
kv_heads = 2
vocab = 256
[data]
text = ["text/*.txt", "text/*.gz"]
tokenizer = "bytes"
train = "data/train.h5"
valid = "data/valid.h5"
[train]
steps = 24
seq = 32
global_batch = 8
micro_batch = 2
eval_every = 8
eval_batches = 2
[optimizer]
lr = 1e-2
[checkpoint]
every = 8
keep = 2
[log]
every = 4
DECK

# expect CODE PATTERN command...: the exit code, and a line of the output that matches.
expect() {
  local code=$1 pattern=$2 status=0 output
  shift 2
  output=$("$@" 2>&1 </dev/null) || status=$?
  if ((status != code)) || ! grep -qE -- "$pattern" <<<"$output"; then
    printf 'FAILED: %s\n  exit code %d (expected %d), pattern: %s\n%s\n' \
      "$*" "$status" "$code" "$pattern" "$output"
    exit 1
  fi
  printf 'ok %3d  %s\n' "$status" "${*##*/}"
}
train() { "${launch[@]}" "$program" train deck.toml "$@"; }
losses() { grep -o '"loss": [^,]*' run/metrics.jsonl; }

expect 3 'data/train.h5' train
expect 0 'documents' "$program" prepare deck.toml
expect 0 'bytes per rank' "$program" check deck.toml --ranks 2
expect 0 'verified' "$program" inspect data/train.h5

# An uninterrupted run, and the same one in three slices.
expect 0 'done at step 24' train
losses >expected
expect 2 'run.output: run already holds a run' train
mv run reference
expect 75 'stopped at step 5' train run.stop_after=5
grep -q '"code": 75' run/exit.json
expect 75 'stopped at step 13' train run.stop_after=13 checkpoint.resume=latest
expect 0 'step  ?13 from run/checkpoints/step-000000013' train checkpoint.resume=auto
losses | cmp - expected
expect 0 'nothing to do' train checkpoint.resume=latest
expect 0 'step-000000024 +verified' "$program" inspect run
grep -q '"code": 0' run/exit.json

# Damage: the newest is passed over, then none is left.
printf 'x' | dd of=run/checkpoints/step-000000024/state.h5 bs=1 seek=3000 conv=notrunc status=none
expect 4 'state.h5' "$program" inspect run/checkpoints/step-000000024
expect 4 'step-000000024' train checkpoint.resume=run/checkpoints/step-000000024
expect 0 'warning: .*step-000000024' train checkpoint.resume=latest
losses | cmp - expected
for state in run/checkpoints/*/state.h5; do : >"$state"; done
expect 4 'none' train checkpoint.resume=auto

# Refusals.
expect 4 'empty' train run.output=empty checkpoint.resume=latest
expect 2 'model.hiden.*model.hidden' train model.hiden=8
expect 2 'grid.tp' train grid.tp=2 model.ffn=127
expect 2 'model.vocab: 200' train model.vocab=200 run.output=small
: >file
expect 5 'file' train run.output=file/run
head -c 3000 data/train.h5 >cut.h5
expect 3 'cut.h5' train data.train=cut.h5 run.output=cut
expect 2 'generate' "$program" generate deck.toml
echo "all held"
