#!/usr/bin/env bash
# Trains inputs/quickstart.toml and, on the same data and with the same work a token,
# inputs/quickstart_moe.toml with each way of balancing its experts, on 2 ranks, and writes the
# comparison to tests/bench/EXPERTS.md. `build/pentagrid prepare inputs/quickstart.toml` comes first.
#
#   tests/bench/experts_table.sh [program] [steps]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
program=${1:-build/pentagrid} steps=${2:-300}
out=tests/bench/EXPERTS.md
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_hwloc_base_binding_policy=none
if [[ $(id -u) == 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT

# numbers KEY: the values of a metric, from the step records of standard input, one a line.
numbers() { sed -n "s/.*\"$1\": \([-0-9.eE+]*\).*/\1/p"; }

row() { # row NAME DECK [override...]
  local name=$1 deck=$2 folder=$runs/run metrics=$runs/run/metrics.jsonl
  shift 2
  echo "experts    $name" >&2
  rm -rf "$folder"
  mpirun -n 2 "$program" train "$deck" run.output="$folder" train.steps="$steps" \
    train.eval_every=0 checkpoint.every=0 "$@" </dev/null >"$runs/log" 2>&1 || {
    tail -n 20 "$runs/log" >&2
    return 1
  }
  local valid loss dropped load
  valid=$(grep -o '"valid_loss": *[0-9.eE+-]*' "$metrics" | tail -n 1 | grep -o '[0-9.eE+-]*$')
  # Means over the last tenth of the run.
  loss=$(grep '"loss"' "$metrics" | tail -n $((steps / 10)) | numbers loss |
    awk '{ s += $1 } END { printf "%.4f", s / NR }')
  dropped=$(grep '"loss"' "$metrics" | tail -n $((steps / 10)) | numbers dropped |
    awk '{ s += $1 } END { if (NR) printf "%.2f %%", 100 * s / NR; else print "-" }')
  # Tokens by expert, over the mean: of each block the most and the least, of the first block all.
  load=$(grep '"loss"' "$metrics" | tail -n $((steps / 10)) |
    sed -n 's/.*"load": \[\(.*\)\]}.*/\1/p' | awk '
      { n = split($0, block, /\], \[/)
        for (b = 1; b <= n; ++b) {
          gsub(/[][]/, "", block[b]); e = split(block[b], count, /, /)
          for (i = 1; i <= e; ++i) sum[b, i] += count[i]
        } }
      END {
        if (!NR) { print "- | - | -"; exit }
        for (b = 1; b <= n; ++b) {
          all = 0; for (i = 1; i <= e; ++i) all += sum[b, i]
          for (i = 1; i <= e; ++i) {
            share = sum[b, i] * e / all
            if (share > most || !most) most = share
            if (share < least || !least) least = share
            if (b == 1) first = first sprintf("%s%.2f", i > 1 ? " " : "", share)
          }
        }
        printf "%.2f | %.2f | %s", most, least, first
      }')
  printf '| %s | %s | %s | %s | %s |\n' "$name" "$loss" "$(printf '%.4f' "$valid")" \
    "$dropped" "$load" | tee -a "$runs/rows" >&2
}

dense=inputs/quickstart.toml moe=inputs/quickstart_moe.toml
row "dense, ffn 704" $dense
row "8 experts, top 2, no balance" $moe moe.aux_loss=0.0
row "auxiliary loss 0.01" $moe
row "auxiliary loss 0.01, capacity 1.25" $moe moe.capacity_factor=1.25
row "balance by bias 0.001" $moe moe.aux_loss=0.0 moe.bias_update=0.001
row "balance by bias 0.01" $moe moe.aux_loss=0.0 moe.bias_update=0.01
row "switch, aux 0.01, ffn 704" $moe moe.router=switch moe.top_k=1 moe.renormalize=false moe.ffn=704
row "expert choice" $moe moe.router=expert_choice moe.renormalize=false moe.aux_loss=0.0

{
  cat <<TEXT
# Experts beside a dense model, measured

The text of the quickstart, $steps steps of 8 sequences of 256 tokens on 2 ranks, bf16. A token does
the same work in all of them: a feed-forward layer of 704, two experts of 352, or one of 704.

- Loss: cross-entropy in nats a token, mean over the last tenth of the run. Expert choice looks at
  later tokens of the sequence when it chooses, also in validation: its losses are not comparable.
- Dropped: share of the pairs (token, expert) that found no place, in that tenth.
- Load: tokens that an expert of a block was asked for, over the mean of the block, in that tenth:
  the most and the least of all six blocks, and all eight of the first block. 1 is even.
- A bias moves by its update once a step: in so few steps 0.001 does not get far.

TEXT
  echo "Made by \`tests/bench/experts_table.sh\` on $(date -u +%F)," \
    "$(nproc --all) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)."
  echo
  echo "| model | loss | validation | dropped | most | least | load of the first block |"
  echo "|---|---|---|---|---|---|---|"
  cat "$runs/rows"
} >"$out"
cat "$out"
