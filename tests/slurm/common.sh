#!/usr/bin/env bash
# Sourced by the tests that submit jobs: a Slurm of two nodes for this test alone, which ends with
# it whatever happens, and ways to wait for jobs.
#   common.sh's callers: TEST.sh PROGRAM SOURCE FOLDER
set -Eeuo pipefail
program=$1 source=$2 folder=$3
here=$source/tests/slurm
PATH=$PATH:/usr/sbin:/sbin
# Limits of patience, not of the thing tested: the machine may be busy.
patience=${PATIENCE:-60}

fail() {
  trap - ERR
  {
    printf 'FAILED: %s\n' "$*"
    # Once, not for each shell that a failure passes through.
    if [[ -n ${SLURM_CONF:-} && $BASHPID == "$$" ]]; then
      timeout 10 scontrol show job | grep -E '^JobId|JobState|Restarts|Time=' || true
      tail -n 25 "$SLURM_LOCAL_DIR"/log/slurm{ctld,d-*}.log || true
      tail -n 40 "$folder"/*.out || true
    fi
  } >&2
  exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
ok() { printf 'ok  %5.1f s  %s\n' "$(since_start)" "$*"; }
now() { date +%s.%N; }
since_start() { awk -v a="$(now)" -v b="$begun" 'BEGIN { print a - b }'; }
begun=$(now)

# wait_for WHAT command...: until the command succeeds.
wait_for() {
  local what=$1 try
  shift
  for try in $(seq $((patience * 5))); do
    if "$@"; then return; fi
    sleep 0.2
  done
  fail "$what: not after $patience s and $try tries"
}

# Ends the cluster, and again should this process be killed before its trap.
end_with_me() {
  trap '"$here/local_cluster.sh" clean >/dev/null 2>&1 || true' EXIT
  trap 'exit 1' INT TERM HUP
  # shellcheck disable=SC2016  # the inner shell's own
  setsid bash -c 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; "$2" clean' \
    bash $$ "$here/local_cluster.sh" </dev/null >/dev/null 2>&1 &
}

start_cluster() {
  local try
  command -v slurmctld >/dev/null || {
    echo "skipped: no slurmctld; it is in the packages slurm-wlm slurm-wlm-basic-plugins munge"
    exit 77
  }
  SLURM_LOCAL_DIR=$(mktemp -d "${TMPDIR:-/tmp}/pg-slurm-XXXXXX")
  export SLURM_LOCAL_DIR SLURM_LOCAL_NODES=2 SLURM_LOCAL_KILLWAIT=8
  end_with_me
  for try in 1 2 3 4; do
    # Below the ports that the system gives away by itself.
    export SLURM_LOCAL_PORT=$((16000 + RANDOM % 4000 * 4))
    if "$here/local_cluster.sh" start >"$folder/cluster.log" 2>&1; then
      eval "$("$here/local_cluster.sh" env)"
      ok "$(cat "$folder/cluster.log")"
      return
    fi
    cat "$folder/cluster.log"
  done
  fail "no Slurm starts here: see the lines above"
}

# A field of a job as scontrol shows it.
field() { # JOB NAME
  timeout 10 scontrol show job -o "$1" | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1
}
is() { [[ $(field "$1" "$2") == "$3" ]]; } # JOB NAME VALUE
has_ended() { [[ $(field "$1" JobState) =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; }
show() {
  scontrol show job "$1" | grep -E '^JobId|JobState|Restarts' | sed 's/^ */    /'
}

# The steps that a run has recorded: the last one.
last_step() { # RUN
  { sed -n 's/^{"step": \([0-9]*\), "loss".*}$/\1/p' "$1/metrics.jsonl" 2>/dev/null || true; } | tail -n 1
}
beyond() { (($(last_step "$1") + 0 > $2)); } # RUN STEP
# "step loss" of each step, with the digits as they were printed.
losses() { sed -n 's/^{"step": \([0-9]*\), "loss": \([^,]*\),.*}$/\1 \2/p' "$1/metrics.jsonl"; }

node_is_idle() { [[ $(sinfo -h -N -n "$1" -o %t) == idle ]]; }

# A requeued job is held for about two minutes, which release() skips. Some of that time a node needs:
# it launches nothing of a job that it killed in the same second, and the daemon of the last step,
# whose number the next one has too, stays for up to 3 s.
waits_for_its_turn() { # JOB
  wait_for "it waits for its turn" is "$1" JobState PENDING
  sleep 6
}
release() { scontrol update "jobid=$1" StartTime=now; }

submit() { sbatch --parsable --chdir="$folder" "$@"; }

# A folder with text, tokens and the deck; jobs run in it.
prepare_folder() {
  local i
  rm -rf "$folder" && mkdir -p "$folder/text" && cd "$folder"
  # A linear congruential generator's bits are letters: something to learn, and never learned.
  for i in 1 2 3 4; do
    awk -v x="$i" 'BEGIN {
      for (n = 0; n < 3000; n++) {
        x = (x * 1103515245 + 12345) % 2147483648
        printf "%s ", substr("abcdefghijklmnopqrstuvwxyz", int(x / 65536) % 22 + 1, 4)
      }
    }' >"text/$i.txt"
  done
  cp "$here/tiny.toml" deck.toml
  "$program" prepare deck.toml >prepare.log
  export PG_ROOT=$source PG_PROGRAM=$program
}
