#!/usr/bin/env bash
# Sourced by the scripts behind the Makefile: where the repository is, how a step is announced, and
# how a noisy command is kept quiet. Bash only; nothing here needs a package.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# step WORD text...: the one line that a step prints.
step() { printf '%-10s %s\n' "$1" "${*:2}"; }

# die text...: one line on standard error and failure.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# quietly LOG command...: output goes to LOG; its tail is shown if the command fails.
quietly() {
  local log=$1 status=0
  shift
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 || status=$?
  if ((status != 0)); then
    printf '\n%s: exit %d; the end of %s:\n' "$*" "$status" "$log" >&2
    tail -n 40 "$log" >&2
  fi
  return "$status"
}

cores() { getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1; }
