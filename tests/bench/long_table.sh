#!/usr/bin/env bash
# Runs bench_long once a case, one after another (a step on 131,072 tokens takes some minutes a
# case), and writes the table to tests/bench/LONG.md. Lines of cases that are done wait in
# BUILD/tests/long_rows.txt, so that an interrupted table goes on; remove it to measure again.
#
#   tests/bench/long_table.sh [build folder]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${1:-build}
out=tests/bench/LONG.md
rows=$build/tests/long_rows.txt
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_hwloc_base_binding_policy=none
if [[ $(id -u) == 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

touch "$rows"
for seq in 16384 32768 131072; do
  for case in "ring 1" "ring 2" "ring 4" "ulysses 2" "ulysses 4" "allgather 2" "allgather 4"; do
    read -r method cp <<<"$case"
    grep -q "^$method $cp $seq " "$rows" && continue
    echo "long       $seq tokens, $method, cp $cp" >&2
    timeout 7200 mpirun -n "$cp" "$build/tests/bench_long" context.method="$method" \
      train.seq="$seq" | tee -a "$rows" >&2
  done
done

{
  cat <<'TEXT'
# Long sequences, measured

One training step on one sequence, fp32: 1 layer, hidden 64, 4 heads of 16 (4 KV heads), SwiGLU of
width 256, vocabulary 256, no recomputation; each rank one thread. MiB a rank (the one with the
most).

- Arenas: the high water of all activations and temporaries, taken / planned. Times cp: over cp = 1
  of the same length; 1 is an exact 1/cp. Required: within 10 % for ring and ulysses.
- T x T bytes: what a byte for each pair of positions would take, over the arenas. There is no such
  object: bytes a token do not grow with the length.
- Process: the process's peak, with its code, libraries, weights and packed copies.
- Loss and norm of the gradient: of the first step; the same on all grids within rounding. A loss is
  a mean in fp64 of fp32 cross-entropies, each of sums of at most 256 products: relative rounding
  below sqrt(256) 2^-24 = 1e-6 a token, and independent over tokens. An element of the gradient is a
  sum over T tokens in fp32, whose order differs: relatively sqrt(131072) 2^-24 = 2e-5 of the norm
  of its terms.
- Seconds are for orientation: 2 cores, so 4 ranks take turns.

`ring` keeps what one rank would keep of its part; its keys and gradients on their way find room
where the feed-forward layer's temporaries were, on more than two ranks not quite. With a narrower
layer, or in bf16, where gradients travel in fp32, they need more than that; but only one layer's
keys are on their way, so times cp is nearer to 1 with more layers. `ulysses` keeps attention's
outputs twice, by head and by position. `allgather` holds the keys and values of the whole sequence
while it attends, and with them their gradients: that part does not fall with cp.

Beside the arenas a rank has 12 bytes for each token of its part (token, target, position), all it
reads of a sequence; with data.mask_documents 4 bytes for each position of the whole one.

TEXT
  echo "Made by \`tests/bench/long_table.sh\` on $(date -u +%F)," \
    "$(nproc --all) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)."
  echo
  echo "| tokens | method | cp | arenas | bytes a token | times cp | T x T bytes / arenas |" \
    "process | seconds | loss | gradient norm |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|"
  awk '
    $2 == 1 { one[$3] = $4 }
    { printf "| %d | %s | %d | %.1f / %.1f | %.1f | %.4f | %.0f | %.0f | %s | %s | %s |\n",
        $3, $2 == 1 ? "any" : $1, $2, $4 / 2^20, $5 / 2^20, $4 / $3, $4 * $2 / one[$3], $3 * $3 / $4,
        $6 / 2^20, $7, $8, $9
      if ($1 != "allgather" && ($4 * $2 / one[$3] > 1.1 || $4 * $2 / one[$3] < 0.9)) bad = 1
      if ($4 != $5) bad = 1 }
    END { exit bad }' "$rows"
} > "$out"
cat "$out"
