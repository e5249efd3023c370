#!/usr/bin/env bash
# scripts/soak.sh [SEED]
# One training run on 4 ranks that is killed SOAK_KILLS times (50), a third of them inside a save, and
# ends with the digits of an uninterrupted one: tests/faults/soak.sh. About ten minutes on 2 cores.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

kills=${SOAK_KILLS:-50}
mpi_on_one_machine
export OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1
step soak "$kills kills of a run on 4 ranks"
tests/faults/soak.sh "$root/build/pentagrid" "$root/build/soak" "$kills" "$(((kills * 3 + 9) / 10))" 256 \
  "${1:-$RANDOM}" none mpirun -n 4
