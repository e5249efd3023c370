#!/usr/bin/env bash
# The quickstart behind `make run`: text to tokens, training on 2 ranks up to a stop, as a wall
# limit would make it, and on from the checkpoint to the end. `prepare` keeps tokens that are there
# and were made from the same text; a run that is already there is kept once, as *.previous.
# TEXT: the text instead of the deck's, one file or several files and globs between blanks.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

deck=inputs/quickstart.toml
program=build/pentagrid

# deck_value SECTION KEY: a plain value of the deck.
deck_value() {
  local value
  value=$(awk -v section="[$1]" -v key="$2" '
    { sub(/\r$/, "") }
    /^[ \t]*\[/ { here = $1 }
    here == section && $1 == key && $2 == "=" {
      sub(/^[^=]*=[ \t]*/, "")
      if (sub(/^"/, "")) sub(/".*/, ""); else sub(/[ \t]*(#.*)?$/, "")
      print
      exit
    }' "$deck")
  [[ -n $value ]] || die "$deck sets no $1.$2"
  printf '%s\n' "$value"
}

output=$(deck_value run output)
steps=$(deck_value train steps)
vocab=$(deck_value model vocab)
tokens=$(deck_value data train)

# TEXT as a TOML array of strings, with token files of its own. A name of one file may hold blanks;
# globs are left to the program.
data=()
if [[ -n ${TEXT:-} ]]; then
  words=("$TEXT")
  [[ -e $TEXT ]] || read -r -d '' -a words <<<"$TEXT" || true
  array=
  for word in "${words[@]}"; do
    word=${word//\\/\\\\}
    array+=${array:+, }'"'${word//\"/\\\"}'"'
  done
  folder=runs/quickstart-text-$(cksum <<<"$array" | cut -d ' ' -f 1)
  tokens=$folder/train.h5
  data=("data.text=[$array]" "data.tokenizer=\"$folder/tokenizer.model\""
    "data.train=\"$tokens\"" "data.valid=\"$folder/valid.h5\"")
fi

# 1. Text to tokens.
step tokens "$program prepare $deck ${data[*]}"
"$program" prepare "$deck" "${data[@]}" </dev/null

# 2. Training on two ranks, up to a stop with the exit code 75 (stopped early, resumable).
if [[ -e $output ]]; then
  step earlier "the run in $output moves to $output.previous"
  rm -rf "$output.previous"
  mv "$output" "$output.previous"
fi
mpi_on_one_machine
half=$(($(cores) / 2))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((half > 0 ? half : 1))}
stop=$((steps - steps / 6))
train() {
  step train "mpirun -np 2 $program train $deck${data:+ ${data[*]:1}} $*"
  # --quiet: mpirun takes the exit code 75 for a fault and would say so at length.
  mpirun --quiet -np 2 "$program" train "$deck" "${data[@]:1}" "$@" </dev/null
}
status=0
train run.stop_after=$stop || status=$?
((status == 75)) || {
  ((status != 0)) || die "the training did not stop after step $stop"
  exit "$status"
}

# 3. On from its last checkpoint.
train checkpoint.resume=latest

metrics=$output/metrics.jsonl
awk -v vocab="$vocab" '
  match($0, /"loss": *[0-9.eE+-]+/) {
    loss = substr($0, RSTART + 7, RLENGTH - 7)
    sub(/^[: ]*/, "", loss)
    if (first == "") first = loss
    n++
  }
  END {
    printf "%-10s from %.3f at step 1 to %.3f at step %d; knowing nothing, ln(%d), is %.3f\n",
           "loss", first, loss, n, vocab, log(vocab)
  }' "$metrics"
step metrics "$metrics"
step tokens "$tokens"
latest=$(find "$output/checkpoints" -maxdepth 1 -name 'step-*' | sort | tail -n 1)
step saved "$latest ($program inspect $latest)"
