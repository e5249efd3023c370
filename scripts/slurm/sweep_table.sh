#!/usr/bin/env bash
# sweep_table.sh FOLDER: what became of each run of a sweep, one a line: exit code, steps, the mean
# loss of the last ten, the last validation loss, tokens per second of computing, overrides. Awk only.
set -euo pipefail
folder=${1:?usage: sweep_table.sh FOLDER}

printf '%4s %5s %9s %10s %10s %11s  %s\n' run exit steps loss valid tokens/s overrides
for run in $(find "$folder" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | grep -xE '[0-9]+' | sort -n); do
  code=- overrides=-
  if [[ -r $folder/ended/$run ]]; then
    read -r code overrides <"$folder/ended/$run"
  fi
  metrics=$folder/$run/metrics.jsonl
  [[ -r $metrics ]] || metrics=/dev/null
  awk -v run="$run" -v code="$code" -v overrides="$overrides" '
    # The number of a field of the line, "" where it has none; null is not a number.
    function number(name,   at) {
      at = index($0, "\"" name "\": ")
      if (!at) return ""
      at = substr($0, at + length(name) + 4)
      return at ~ /^null/ ? "nan" : at + 0
    }
    /"loss": / && number("loss") != "" {
      step = number("step")
      last[step % 10] = number("loss")
      tokens += number("tokens")
      seconds += number("step_s")
    }
    /"valid_loss": / { valid = number("valid_loss") }
    END {
      loss = "-"
      for (i in last) {
        count++
        if (last[i] == "nan") not_finite = 1
        sum += last[i]
      }
      if (count) loss = not_finite ? "nan" : sprintf("%.5f", sum / count)
      if (valid == "") valid = "-"
      else if (valid != "nan") valid = sprintf("%.5f", valid)
      speed = (seconds > 0) ? sprintf("%.0f", tokens / seconds) : "-"
      if (step == "") step = "-"
      printf "%4s %5s %9s %10s %10s %11s  %s\n", run, code, step, loss, valid, speed, overrides
    }' "$metrics"
done
