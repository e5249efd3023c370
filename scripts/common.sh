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

# What Open MPI (4 by its own names, 5 by those of PRRTE) needs to be told on one machine: root is
# whom containers run as; two hardware threads of one core count as one slot; a rank's threads must
# not be bound to one core. Other MPIs ignore all of it.
mpi_on_one_machine() {
  if [[ $(id -u) == 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none
}
