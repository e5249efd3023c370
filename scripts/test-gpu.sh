#!/usr/bin/env bash
# scripts/test-gpu.sh [--no-build] [--build FOLDER] [--logs FOLDER] [--list] [PART...]
# The tests that need a GPU, on the first one there is: one suffices, of about 20 GB. Each part has a
# limit and a log; one that fails stops none of the others; the last lines are a table. Exits 1 when
# a part failed. --no-build: the programs lie in FOLDER (by default build) already, maybe built on
# another machine.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build=yes folder=build logs='' list=no wanted=()
while (($# > 0)); do
  case $1 in
    --no-build) build=no ;;
    --build) folder=$2 && shift ;;
    --logs) logs=$2 && shift ;;
    --list) list=yes ;;
    -*) die "$1 is no option (--no-build, --build FOLDER, --logs FOLDER, --list)" ;;
    *) wanted+=("$1") ;;
  esac
  shift
done
logs=${logs:-$folder/gpu-logs}
tests=$folder/tests
names=() results=() seconds=() notes=()
failed=0

# part NAME LIMIT command...: exit 77 means that this machine lets it not run; the log's last line
# says why.
part() {
  local name=$1 limit=$2 status=0 begin=$SECONDS
  shift 2
  if [[ $list == yes ]]; then
    printf '%s\n' "$name"
    return
  fi
  ((${#wanted[@]} == 0)) || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  step "$name" "at most $limit s, log in $logs/$name.log"
  # `timeout` ends the whole process group, ranks included.
  export -f "${functions[@]}"
  timeout --kill-after=10 "$limit" bash -c '"$@"' part "$@" >"$logs/$name.log" 2>&1 </dev/null ||
    status=$?
  names+=("$name")
  seconds+=($((SECONDS - begin)))
  case $status in
    0) results+=(passed) notes+=("$(passed_tests "$logs/$name.log")") ;;
    77) results+=(skipped) notes+=("$(tail -n 1 "$logs/$name.log")") ;;
    *)
      failed=1
      if ((status == 124 || status == 137)); then results+=("too long"); else results+=(FAILED); fi
      notes+=("exit $status; $(passed_tests "$logs/$name.log")")
      tail -n 15 "$logs/$name.log" >&2
      ;;
  esac
}
passed_tests() {
  sed -n -e 's/^\[  PASSED  \] \([0-9]*\) tests\?\.$/\1 tests/p' \
    -e 's/^\[  FAILED  \] \([0-9]*\) tests\?, listed below.*/\1 tests failed/p' \
    -e 's/^note: //p' "$1" | tail -n 1
}

# -- what parts are made of; each runs in a shell of its own -----------------------------------------
functions=(skip launch comm_apart sanitize metrics_after training)
skip() {
  printf '%s\n' "$*"
  exit 77
}
launch() {  # RANKS command...
  local ranks=$1
  shift
  if ((ranks == 1)); then exec "$@"; fi
  [[ -n $PG_LAUNCHER ]] || skip "no mpirun here"
  "$PG_LAUNCHER" -np "$ranks" "$@"
}
# Several ranks on one GPU, which NCCL takes for several hosts: sums over sockets, in turns.
comm_apart() {  # RANKS
  export NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 NCCL_IB_DISABLE=1 NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}
  # shellcheck disable=SC2016  # each rank's own number
  launch "$1" bash -c 'NCCL_HOSTID=host${OMPI_COMM_WORLD_RANK:-$PMI_RANK} exec "$@"' rank \
    "$PG_TESTS/test_gpu_comm" --gtest_filter='group_on_gpu/1.*:groups_on_gpu.*'
}
sanitize() {  # TOOL FILTER
  command -v compute-sanitizer >/dev/null || skip "compute-sanitizer is not here"
  # Calls that fail are what some tests are about.
  local tool=(compute-sanitizer --tool "$1" --error-exitcode 9) log status=0
  [[ $1 != memcheck ]] || tool+=(--report-api-errors no)
  log=$(timeout 120 "${tool[@]}" "$PG_TESTS/test_gpu_kernels" \
    --gtest_filter='CudaReduce.sum_adds_to_the_total' 2>&1) || status=$?
  if [[ $log != *SUMMARY* || $log != *"[  PASSED  ] 1 test"* ]]; then
    printf '%s\n' "$log"
    skip "compute-sanitizer does not run here (exit $status): $(grep -im 1 'error\|support' <<<"$log")"
  fi
  "${tool[@]}" "$PG_TESTS/test_gpu_kernels" --gtest_filter="$2"
}
metrics_after() {  # STEP FOLDER: losses and norms of the later steps, all digits
  sed -n 's/.*"step": \([0-9]*\), "loss": \([^,]*\),.*"grad_norm": \([^,]*\),.*/\1 \2 \3/p' \
    "$2/metrics.jsonl" | awk -v step="$1" '$1 > step'
}
# A run of 12 steps; then its copy, of which only the checkpoint of step 5 is left, goes on from
# there with one more stop. The digits must be those of the run that never stopped.
training() {  # RANKS [section.key=value...]
  local ranks=$1 runs=$PG_LOGS/runs-$1 program=$PG_BUILD/pentagrid status
  shift
  rm -rf "$runs" && mkdir -p "$runs/text"
  for file in $(seq 1 40); do
    for line in $(seq 1 60); do
      echo "file $file, line $line: the square of $((file * line)) is $((file * line * file * line))"
    done >"$runs/text/$file.txt"
  done
  cat >"$runs/deck.toml" <<DECK
[run]
name = "gpu"
device = "cuda"
precision = "bf16"
[model]
layers = 4
hidden = 256
heads = 4
kv_heads = 2
vocab = 256
[data]
text = "$runs/text/*.txt"
tokenizer = "bytes"
train = "$runs/train.h5"
[train]
steps = 12
seq = 256
global_batch = 8
micro_batch = 2
[optimizer]
lr = 1e-3
[schedule]
warmup = 2
[checkpoint]
every = 5
keep = 0
[log]
every = 1
DECK
  train() {  # FOLDER EXIT [override...]
    local expected=$2
    status=0
    (launch "$ranks" "$program" train "$runs/deck.toml" run.output="$runs/$1" "${@:3}") || status=$?
    if ((status != expected)); then
      echo "exit $status where $expected was expected"
      exit 1
    fi
  }
  "$program" prepare "$runs/deck.toml" || exit 1
  train whole 0 "$@"
  cp -r "$runs/whole" "$runs/again"
  find "$runs/again/checkpoints" -mindepth 1 -maxdepth 1 ! -name 'step-000000005' -exec rm -rf {} +
  train again 75 checkpoint.resume=latest run.stop_after=9 "$@"
  train again 0 checkpoint.resume=latest "$@"
  metrics_after 5 "$runs/whole" >"$runs/whole.txt"
  metrics_after 5 "$runs/again" >"$runs/again.txt"
  (($(wc -l <"$runs/whole.txt") == 7)) || { echo "7 steps after the fifth are expected"; exit 1; }
  diff "$runs/whole.txt" "$runs/again.txt" || exit 1
  # The last one really learned something.
  metrics_after 0 "$runs/whole" | awk 'NR == 1 { first = $2 } { last = $2 }
    END { printf "note: 7 steps digit for digit, loss %.3f to %.3f\n", first, last
          exit !(last < first - 0.1) }'
}

# -- the parts ---------------------------------------------------------------------------------------
if [[ $list == no ]]; then
  if [[ $build == yes ]]; then
    [[ $folder == build ]] || die "--build is for --no-build"
    "$root/scripts/build.sh" --tests pentagrid test_gpu_kernels test_gpu_parity test_gpu_comm \
      test_gpu_run
  fi
  [[ -x $tests/test_gpu_kernels ]] || die "$tests/test_gpu_kernels is missing: built without CUDA?"
  mkdir -p "$logs"
  logs=$(cd "$logs" && pwd)
fi
mpi_on_one_machine
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMPI_MCA_mpi_yield_when_idle=1
PG_LAUNCHER=$(command -v mpirun || command -v orterun || command -v mpiexec || true)
PG_BUILD=$folder PG_TESTS=$tests PG_LOGS=$logs
export PG_LAUNCHER PG_BUILD PG_TESTS PG_LOGS

part kernels 600 "$tests/test_gpu_kernels"
for ranks in 1 2 4 8; do part parity-$ranks 900 launch $ranks "$tests/test_gpu_parity"; done
for ranks in 1 2 4; do part comm-$ranks 300 launch $ranks "$tests/test_gpu_comm"; done
for ranks in 2 4; do part nccl-$ranks 180 comm_apart $ranks; done
for ranks in 1 2; do part run-$ranks 300 launch $ranks "$tests/test_gpu_run"; done
part training-1 300 training 1
part training-2 300 training 2 grid.zero=2
part training-4 300 training 4 grid.tp=2 grid.pp=2 grid.sequence_parallel=true
part memcheck 900 sanitize memcheck '*'
# Of our own kernels: those of libraries synchronise in ways that racecheck does not know.
part racecheck 900 sanitize racecheck '-CudaLinear*:CudaGroupedLinear*:CudaMatmul*:*cudnn*'
[[ $list == no ]] || exit 0

((${#names[@]} > 0)) || die "no such part (--list shows them)"
printf '\n%-12s %-9s %8s  %s\n' part result seconds note
for i in "${!names[@]}"; do
  printf '%-12s %-9s %8d  %s\n' "${names[i]}" "${results[i]}" "${seconds[i]}" "${notes[i]}"
done
exit "$failed"
