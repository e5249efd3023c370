#!/usr/bin/env bash
# The quickstart behind `make run`: text to tokens, training on 2 ranks up to a stop, as a wall
# limit would make it, and on from the checkpoint to the end. Tokens are reused while the text and
# the deck's [data] are the same; a run that is already there is kept once, as *.previous.
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

# TEXT as a TOML array of strings. A name of one file may hold blanks; globs are left to the program.
text_override=()
if [[ -n ${TEXT:-} ]]; then
  words=("$TEXT")
  [[ -e $TEXT ]] || read -r -d '' -a words <<<"$TEXT" || true
  array=
  for word in "${words[@]}"; do
    word=${word//\\/\\\\}
    array+=${array:+, }'"'${word//\"/\\\"}'"'
  done
  text_override=("data.text=[$array]")
fi

tokens=$(deck_value data train)
output=$(deck_value run output)
steps=$(deck_value train steps)
vocab=$(deck_value model vocab)

# 1. Text to tokens. What the file was made from lies beside it.
made_from=$tokens.made-from
now=$(printf '%s\n' "${text_override[*]}"
  awk '/^[ \t]*\[/ { here = $1 } here == "[data]" || (here == "[model]" && $1 == "vocab")' "$deck")
if [[ -f $tokens && -f $made_from && $(<"$made_from") == "$now" ]]; then
  step tokens "$tokens is there"
else
  step tokens "$program prepare $deck ${text_override[*]}"
  mkdir -p "$(dirname "$tokens")"
  rm -f "$made_from" "$tokens"
  "$program" prepare "$deck" "${text_override[@]}"
  printf '%s\n' "$now" >"$made_from"
fi

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
  step train "mpirun -np 2 $program train $deck $*"
  # --quiet: mpirun takes the exit code 75 for a fault and would say so at length.
  mpirun --quiet -np 2 "$program" train "$deck" "$@" </dev/null
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
