#!/usr/bin/env bash
# `pentagrid verify` as its user runs it: a deck that trains in bf16 on four ranks agrees with one rank, wrong
# decks are refused with their exit codes, and nothing is left behind.
#   verify.sh PROGRAM FOLDER MPIEXEC...
set -euo pipefail
program=$1 folder=$2
shift 2
launch=("$@")

rm -rf "$folder" && mkdir -p "$folder" && cd "$folder"
for i in $(seq 1 300); do echo "line $i of a text that says the same thing again and again"; done >text.txt

cat >deck.toml <<'DECK'
[run]
output = "run"
precision = "bf16"
threads = 1
[grid]
tp = 2
pp = 2
zero = 1
sequence_parallel = true
[recompute]
mode = "selective"
[model]
layers = 4
hidden = 32
heads = 4
kv_heads = 2
vocab = 256
dropout = 0.1
[data]
text = "text.txt"
tokenizer = "bytes"
train = "train.h5"
[train]
steps = 24
seq = 32
global_batch = 32
micro_batch = 2
[optimizer]
lr = 1e-2
DECK

# expect CODE PATTERN command...: the exit code, and a line of the output that matches. shows PATTERN: another
# line of the same output.
output=""
expect() {
  local code=$1 pattern=$2 status=0
  shift 2
  output=$("$@" 2>&1 </dev/null) || status=$?
  if ((status != code)) || ! grep -qE -- "$pattern" <<<"$output"; then
    printf 'FAILED: %s\n  exit code %d (expected %d), pattern: %s\n%s\n' \
      "$*" "$status" "$code" "$pattern" "$output"
    exit 1
  fi
  printf 'ok %3d  %s\n' "$status" "${*##*/}"
}
shows() {
  grep -qE -- "$1" <<<"$output" || { printf 'FAILED: no line matches: %s\n%s\n' "$1" "$output"; exit 1; }
}
verify() { "${launch[@]}" "$program" verify deck.toml "$@"; }

expect 3 'train.h5' verify
expect 0 'document, ' "$program" prepare deck.toml
before=$(ls -A)
agrees='the grid computes what one rank does'
expect 0 "$agrees" verify
shows '^block 3 '
shows "deck's own bf16 is not what is compared"
shows 'global_batch cut from 32 to 8'
expect 0 "$agrees" verify pipeline.schedule=interleaved pipeline.chunks=2 model.tie_embeddings=true
expect 0 "$agrees" verify grid.tp=1 grid.pp=1 grid.zero=3 grid.sequence_parallel=false
expect 0 "$agrees" verify grid.pp=1 grid.ep=2 moe.experts=4 moe.ffn=32 moe.aux_loss=0.01
shows '^  experts      4 experts of 32, top 2 a token'
expect 0 "$agrees" verify grid.tp=1 grid.pp=1 grid.sequence_parallel=false grid.cp=4 data.mask_documents=true
shows 'x cp 4 \(ring\), zero 1$'
expect 2 'grid.cp: context.method = "ring" needs train.seq' verify grid.tp=1 grid.pp=1 grid.cp=3
expect 2 'model.hiden.*model.hidden' verify model.hiden=8
expect 2 'grid.dp' verify grid.dp=3
expect 2 'DECK is required' "${launch[@]}" "$program" verify
expect 2 'train.micro_batch: 1048576: .*legal: at most [0-9]+' \
  verify train.micro_batch=1048576 train.global_batch=1048576 model.layers=8 model.hidden=512
expect 7 'not both finite' verify optimizer.lr=1e300 optimizer.clip=0 schedule.kind=constant
if [[ $(ls -A) != "$before" ]]; then
  printf 'FAILED: verify left something behind:\n%s\n' "$(ls -A)"
  exit 1
fi
echo "all held"
