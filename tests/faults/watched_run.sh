# Sourced by tests that start, stop and kill the program: a tiny deck in an empty folder, and waiting.
# shellcheck shell=bash

# in_empty_folder FOLDER PROGRAM: goes there, and prepares data/train.h5 and deck.toml.
in_empty_folder() {
  rm -rf "$1" && mkdir -p "$1/text" && cd "$1" || exit 1
  for i in $(seq 100 130); do
    for _ in 1 2 3 4 5 6; do echo "line $i of a text that says the same thing again and again"; done \
      >"text/$i.txt"
  done
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
text = ["text/*.txt"]
tokenizer = "bytes"
train = "data/train.h5"
[train]
steps = 100000
seq = 32
global_batch = 6
micro_batch = 2
[optimizer]
lr = 1e-2
[log]
every = 1000
DECK
  "$2" prepare deck.toml >/dev/null
}

failed() { printf 'FAILED: %s\n' "$*"; for file in out*; do printf -- '--- %s\n' "$file"; cat "$file"; done; exit 1; }

# within SECONDS command...: repeats the command until it succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS <= end)) || return 1
    sleep 0.05
  done
}
ended() { ! kill -0 "$1" 2>/dev/null; }
steps_of() { [[ -f $1/metrics.jsonl ]] && (($(wc -l <"$1/metrics.jsonl") >= $2)); }
losses() { grep -o '"loss": [^,]*' "$1/metrics.jsonl"; }
