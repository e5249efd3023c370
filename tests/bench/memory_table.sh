#!/usr/bin/env bash
# Runs bench_memory once a configuration, on 4 ranks, one after another (each takes up to 12 GiB
# and a few minutes on 2 cores), and writes the table to tests/bench/MEMORY.md.
#
#   tests/bench/memory_table.sh [build folder]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${1:-build}
out=tests/bench/MEMORY.md
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_hwloc_base_binding_policy=none
if [[ $(id -u) == 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
status=0
row() { # row NAME [override...]
  echo "memory     $1" >&2
  if ! timeout 600 mpirun -n 4 "$build/tests/bench_memory" --table "$@" | tee -a "$rows" >&2; then
    echo "memory     $1: out of bounds or failed" >&2
    status=1
  fi
}

row "dp4 zero 0"
row "dp4 zero 1" grid.zero=1
row "dp4 zero 2" grid.zero=2
row "dp4 zero 3" grid.zero=3
row "dp4 zero 1, selective" grid.zero=1 recompute.mode=selective
row "dp4 zero 1, full" grid.zero=1 recompute.mode=full
row "tp4 sp" grid.tp=4 grid.sequence_parallel=true
row "pp4 1f1b" grid.pp=4
row "pp4 gpipe, full" grid.pp=4 pipeline.schedule=gpipe recompute.mode=full
row "dp2 tp2 zero 2" grid.dp=2 grid.tp=2 grid.zero=2
row "dp2 pp2 zero 3" grid.dp=2 grid.pp=2 grid.zero=3
row "tp2 pp2 sp, selective" grid.tp=2 grid.pp=2 grid.sequence_parallel=true recompute.mode=selective
# The other family: own head, gated feed-forward layer, fewer KV heads.
llama=(model.norm=rmsnorm model.activation=swiglu model.position=rope model.bias=false
  model.tie_embeddings=false model.kv_heads=4 model.ffn=2048)
row "llama, dp4 zero 3" grid.zero=3 "${llama[@]}"
row "llama fp32, dp4 zero 1" grid.zero=1 run.precision=fp32 "${llama[@]}"

{
  cat <<'TEXT'
# Memory, measured

GPT-2 124M, bf16 with fp32 masters, moments and gradients, or where it says so a Llama of the same
depth and width; 4 ranks on one host, seq 256, micro-batches of 2 sequences, 8 a step; two steps.
MiB of the rank with the largest plan.

- Each term: taken / formula. Taken is what was allocated for parameters and what the arenas of
  activations held at most; the formula is written from the sizes of model and grid alone
  (tests/harness/memory_formula.cpp).
- Arenas: the sum of these over the formula's, the worst rank (required: within 2 %, activations
  alone as well).
- Packed: planned, as oneDNN owns it: two copies of every matrix (of those in use in ZeRO 3).
- Communication: planned; what sums over ranks receive into. Gradients of two places are on their
  way at once, and their rooms are used again.
- Process: growth of the process's peak from before the trainer is made, over the planned total,
  the worst rank (required: within 10 %).

TEXT
  echo "Made by \`tests/bench/memory_table.sh\` on $(date -u +%F)," \
    "$(nproc --all) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)."
  echo
  echo "| configuration | weights | gradients | masters | moments | places in use | activations |" \
    "arenas | packed | communication | planned | process | process / plan |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
  cat "$rows"
} > "$out"
cat "$out"
exit "$status"
