#!/usr/bin/env bash
# What the compiler says of each kernel: registers, spilled bytes, shared memory, stack. Compiles the
# files of model/kernels/cuda again, with the flags that the build uses (nvcc is needed, a GPU is not).
#
#   tests/bench/kernel_resources.sh [--build FOLDER] [--arch sm_90] [--spills] [FILE.cu...]
#
# --spills: only the kernels that spill. Sorted by file, spilled bytes and registers. Registers times
# threads bound the blocks that a multiprocessor holds: of 65,536, 64 a thread allow 1,024 threads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=build arch=sm_90 only_spills=no files=()
while (($# > 0)); do
  case $1 in
    --build) build=$2 && shift ;;
    --arch) arch=$2 && shift ;;
    --spills) only_spills=yes ;;
    *) files+=("$1") ;;
  esac
  shift
done
commands=$build/compile_commands.json
[[ -f $commands ]] || { echo "there is no $commands: configure first (make build)" >&2; exit 1; }
((${#files[@]} > 0)) || mapfile -t files < <(find model/kernels/cuda -name '*.cu' | sort)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# command_of FILE: nvcc's command from the build, for one architecture, its output thrown away.
command_of() {
  grep -E '"command": "[^"]*nvcc ' "$commands" | grep -F -- "-c $PWD/$1 " | head -n 1 |
    sed -E 's/^ *"command": "//; s/",?$//; s/\\"/"/g; s/\\\\/\\/g; s/ -o [^ ]+/ /
      s/ "?--generate-code=[^ ]+"?//g; s/ -gencode[ =][^ ]+//g; s/ -arch[= ][^ ]+//g'
}
resources() {  # FILE: raw lines of ptxas
  local command
  command=$(command_of "$1")
  [[ -n $command ]] || { echo "$1: not in $commands (built without CUDA?)" >&2; return 1; }
  # --cubin for one real architecture: nothing is linked, and ptxas reports each kernel once.
  (cd "$build" && eval "${command/ -c / --cubin -arch=$arch -Xptxas -v -c } -o $work/out.cubin") 2>&1
}

rows=$work/rows
: >"$rows"
status=0
for file in "${files[@]}"; do
  echo "resources  $file" >&2
  if ! resources "$file" >"$work/log"; then
    tail -n 5 "$work/log" >&2
    status=1
    continue
  fi
  # ptxas: "Compiling entry function 'NAME'", then stack and spills, then "Used N registers, ...".
  awk -v file="${file##*/}" '
    /Compiling entry function/ { split($0, part, "\047"); name = part[2] }
    /bytes stack frame/ {
      stack = $0; sub(/ bytes stack frame.*/, "", stack); sub(/.* /, "", stack)
      stores = $0; sub(/ bytes spill stores.*/, "", stores); sub(/.* /, "", stores)
      loads = $0; sub(/ bytes spill loads.*/, "", loads); sub(/.* /, "", loads)
    }
    /Used [0-9]+ registers/ {
      registers = $0; sub(/.*Used /, "", registers); sub(/ .*/, "", registers)
      shared = 0
      if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
      print file "\t" registers "\t" stores + loads "\t" shared "\t" stack "\t" name
    }' "$work/log" >>"$rows"
done

# Names as people write them: no parameters, no namespaces of ours, short types.
cut -f 6 "$rows" | c++filt | sed -E 's/\(anonymous namespace\):://g; s/pg::(model::|comm::)?(cuda::)?//g
  s/^void //; s/\(bool\)1/true/g; s/\(bool\)0/false/g; s/\((int|unsigned int|long)\)([0-9])/\2/g
  s/__nv_bfloat16/bf16/g; s/\(.*//' | cut -c 1-70 >"$work/names"
cut -f 1-5 "$rows" | paste - "$work/names" |
  sort -t $'\t' -k 1,1 -k 3,3nr -k 2,2nr -k 6,6 >"$work/table"

awk -F '\t' -v only="$only_spills" '
  BEGIN { printf "%-26s %9s %8s %8s %6s  %s\n", "file", "registers", "spilled", "shared", "stack", "kernel" }
  only == "no" || $3 > 0 { printf "%-26s %9d %8d %8d %6d  %s\n", $1, $2, $3, $4, $5, $6 }
  { n++; if ($3 > 0) spilling++; if ($2 > most) most = $2; if ($3 > 0) bytes[$1] += $3 }
  END {
    printf "\n%d kernels, %d of them spill, at most %d registers\n", n, spilling, most
    for (file in bytes) printf "  %-24s %d bytes of spills\n", file, bytes[file]
  }' "$work/table"
exit "$status"
