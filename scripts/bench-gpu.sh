#!/usr/bin/env bash
# scripts/bench-gpu.sh [--no-build] [--build FOLDER] [--out FILE] [--steps N] [PART...]
# Measures one GPU: PARTs are `kernels`, `training` and `pytorch`, by default all (a quarter of an
# hour). Each number stands beside a product and a copy of the same process, and training beside the
# same training in PyTorch, where python3 has it. FILE gets a line of JSON for each result; tables
# of it come last. tests/bench/gpu_table.sh FILE puts them into tests/bench/GPU.md.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build=yes folder=build out='' steps=12 parts=()
while (($# > 0)); do
  case $1 in
    --no-build) build=no ;;
    --build) folder=$2 && shift ;;
    --out) out=$2 && shift ;;
    --steps) steps=$2 && shift ;;
    kernels | training | pytorch) parts+=("$1") ;;
    *) die "$1: --no-build, --build FOLDER, --out FILE, --steps N, kernels, training or pytorch" ;;
  esac
  shift
done
((${#parts[@]} > 0)) || parts=(kernels training pytorch)
out=${out:-$folder/gpu_bench.jsonl}
asked() { [[ " ${parts[*]} " == *" $1 "* ]]; }

if [[ $build == yes ]]; then
  [[ $folder == build ]] || die "--build is for --no-build"
  "$root/scripts/build.sh" --tests bench_gpu_training bench_gpu_kernels
fi
training=$folder/tests/bench_gpu_training kernels=$folder/tests/bench_gpu_kernels
[[ -x $training && -x $kernels ]] || die "$training or $kernels is missing: built without CUDA?"
mpi_on_one_machine
# Initial weights are drawn on the host.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(cores)}
export OMP_NUM_THREADS
# PyTorch is measured beside what was trained before.
if asked kernels || asked training; then
  [[ ! -e $out ]] || mv "$out" "$out.previous"
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem \
  --format=csv,noheader 2>/dev/null || true

failed=()
measure() {  # NAME LIMIT command...: the others go on when one fails
  local name=$1 limit=$2 status=0
  shift 2
  timeout --kill-after=10 "$limit" "$@" </dev/null || status=$?
  if ((status != 0)); then
    printf 'error: %s: exit %d\n' "$name" "$status" >&2
    failed+=("$name")
  fi
  return "$status"
}

if asked kernels; then
  step kernels "$kernels"
  measure kernels 500 "$kernels" --out "$out" || true
fi
if asked training; then
  mapfile -t cases < <("$training" --list)
  for case in "${cases[@]}"; do
    step training "$case"
    measure "$case" 300 "$training" --steps "$steps" --out "$out" "$case" || true
  done
fi
if asked pytorch; then
  if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    step pytorch "python3 has none that sees the GPU: nothing to compare with"
  elif [[ ! -s $out ]]; then
    die "$out is empty: what PyTorch is to train stands there once 'training' has run"
  else
    mapfile -t cases < <(sed -n 's/.*"program": "pentagrid", "case": "\([^"]*\)".*/\1/p' "$out")
    for case in "${cases[@]}"; do
      step pytorch "$case"
      torch=(python3 tests/bench/pytorch_train.py --like "$out" --case "$case" --steps "$steps"
        --out "$out")
      # Where its compiler fails the model is run as it is: better than no number.
      measure "pytorch $case" 400 "${torch[@]}" ||
        measure "pytorch $case, not compiled" 200 "${torch[@]}" --compile none || true
    done
  fi
fi

printf '\n'
"$root/tests/bench/gpu_table.sh" --print "$out"
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
