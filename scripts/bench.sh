#!/usr/bin/env bash
# Builds and runs the benchmarks: each prints its ratios, measured side by side in one run.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ -f tests/bench/CMakeLists.txt ]] || die "there are no benchmarks yet (tests/bench)"
"$root/scripts/build.sh" --tests bench_training bench_checkpoint
"$root/build/tests/bench_training" "$@"
mpi_on_one_machine
export OMP_NUM_THREADS=1 OMPI_MCA_mpi_yield_when_idle=1
mpirun -n 4 "$root/build/tests/bench_checkpoint" "$root/build/tests/bench_checkpoint.files"
