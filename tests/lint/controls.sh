#!/usr/bin/env bash
# Negative controls of check.sh: a small tree that keeps every rule passes; each break of one rule
# makes it fail, names that rule and the place, and names no other.
set -euo pipefail
check=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/check.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0 cases=0

fresh_tree() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree"/{app,comm,io,model/kernels/cpu,tests,scripts}
  printf '#pragma once\n#include <vector>\n' >"$tree/comm/group.h"
  printf '#include <mpi.h>\n#include "comm/group.h"\n' >"$tree/comm/mpi_group.cpp"
  printf '#include <hdf5.h>\n#include <mpi.h>\n#include "comm/group.h"\n' >"$tree/io/checkpoint.cpp"
  printf '#pragma once\n#include <mpi.h>\n' >"$tree/comm/mpi_internal.h"
  printf '#include "comm/mpi_internal.h"\n' >"$tree/comm/process_grid.cpp"
  printf '#if H5_VERSION_GE(1, 12, 0)\n#endif\n' >"$tree/io/hdf5_file.cpp"
  printf '#include <hdf5.h>\n' >"$tree/io/token_file.cpp"
  printf '#include <toml++/toml.h>\n' >"$tree/io/deck.cpp"
  printf '#pragma once\n#include "comm/group.h"\n' >"$tree/model/layer.h"
  printf '#include <dnnl.hpp>\n#include <omp.h>\n#if DNNL_VERSION_MAJOR >= 3\n#endif\n' \
    >"$tree/model/kernels/cpu/matmul.cpp"
  printf '#include <CLI/CLI.hpp>\n#include "io/deck.h"\n#include "model/layer.h"\n' \
    >"$tree/app/cli.cpp"
  printf '#pragma once\n#ifdef __AVX512F__\n#else\n#endif\n' >"$tree/model/kernels/cpu/simd.h"
  printf '#include <hdf5.h>\n#include "app/deck.h"\n#include "near.h"\n#include "harness/run.h"\n' >"$tree/tests/deck_test.cpp"
  printf 'echo fine\n' >"$tree/scripts/a.sh"
}

expect_clean() {  # CLAIM
  cases=$((cases + 1))
  if ! output=$(bash "$check" "$tree" 2>&1) || [[ -n $output ]]; then
    printf 'FAILED %s: the lint said\n%s\n' "$1" "$output"
    failures=$((failures + 1))
  fi
}

# expect RULE PLACE: the lint fails with exactly one finding, of that rule at that place.
expect() {
  local output status=0
  cases=$((cases + 1))
  output=$(bash "$check" "$tree" 2>&1) || status=$?
  if [[ $status != 1 || $output != "$2: $1: "* || $output == *$'\n'* ]]; then
    printf 'FAILED %s at %s: exit %d, and the lint said\n%s\n' "$1" "$2" "$status" "$output"
    failures=$((failures + 1))
  fi
  fresh_tree
}
add() { printf '%b\n' "$2" >>"$tree/$1"; }  # add FILE LINE

fresh_tree
expect_clean 'a tree that keeps the rules passes'

add comm/mpi_group.cpp '#include "model/layer.h"' && expect include-direction comm/mpi_group.cpp:3
add comm/mpi_group.cpp '#include "io/deck.h"' && expect include-direction comm/mpi_group.cpp:3
add comm/mpi_group.cpp '#include "app/deck.h"' && expect include-direction comm/mpi_group.cpp:3
add model/layer.h '#include "io/deck.h"' && expect include-direction model/layer.h:3
add model/layer.h '  #  include "app/deck.h"' && expect include-direction model/layer.h:3
add io/deck.cpp '#include "model/layer.h"' && expect include-direction io/deck.cpp:2
add io/deck.cpp '#include "app/deck.h"' && expect include-direction io/deck.cpp:2
add app/cli.cpp '#include "tests/harness.h"' && expect include-direction app/cli.cpp:4
add app/cli.cpp '#include "deck.h"' && expect include-path app/cli.cpp:4
add app/cli.cpp '#include "../io/deck.h"' && expect include-path app/cli.cpp:4

add comm/group.h '#include <mpi.h>' && expect library-header comm/group.h:3
add comm/mpi_group.h '#pragma once\n#include <mpi.h>' && expect library-header comm/mpi_group.h:2
add app/cli.cpp '#include "comm/mpi_internal.h"' && expect library-header app/cli.cpp:4
add app/cli.cpp '#include <mpi.h>' && expect library-header app/cli.cpp:4
add io/token_file.cpp '#include <mpi.h>' && expect library-header io/token_file.cpp:2
add app/cli.cpp '#include <hdf5.h>' && expect library-header app/cli.cpp:4
add io/deck.cpp '#include <H5Ppublic.h>' && expect library-header io/deck.cpp:2
add model/layer.h '#include <dnnl.hpp>' && expect library-header model/layer.h:3
add model/layer.h '#include <oneapi/dnnl/dnnl.hpp>' && expect library-header model/layer.h:3
add app/cli.cpp '#include <omp.h>' && expect library-header app/cli.cpp:4
add app/cli.cpp '#include <toml++/toml.h>' && expect library-header app/cli.cpp:4
add io/deck.cpp '#include <CLI/CLI.hpp>' && expect library-header io/deck.cpp:2

add app/cli.cpp '#ifdef PG_CUDA' && expect conditional app/cli.cpp:4
add app/cli.cpp '  #if 0' && expect conditional app/cli.cpp:4
add model/layer.h '#ifndef LAYER_H' && expect conditional model/layer.h:3
add model/layer.h '#elif 1' && expect conditional model/layer.h:3
add tests/deck_test.cpp '#if 1' && expect conditional tests/deck_test.cpp:5
add model/layer.h '#if DNNL_VERSION_MAJOR >= 3' && expect conditional model/layer.h:3
add app/cli.cpp '#if H5_VERSION_GE(1, 12, 0)' && expect conditional app/cli.cpp:4
add model/layer.h '#ifdef __AVX512F__' && expect conditional model/layer.h:3
add model/kernels/cpu/matmul.cpp '#ifdef _OPENMP' && expect conditional model/kernels/cpu/matmul.cpp:5
printf 'int a;\n' >"$tree/model/layer.h" && expect pragma-once model/layer.h:1

yes 'int a;' | head -n 451 >"$tree/app/long.cpp" && expect file-length app/long.cpp:451
yes 'int a;' | head -n 450 >"$tree/app/long.cpp" && expect_clean '450 lines pass'
fresh_tree

add app/cli.cpp '// TO''DO: later' && expect unfinished app/cli.cpp:4
add scripts/a.sh '# FIX''ME' && expect unfinished scripts/a.sh:2
add scripts/a.sh 'cp a /ho''me/me/b' && expect absolute-path scripts/a.sh:2
add tests/deck_test.cpp 'open("/ro''ot/x");' && expect absolute-path tests/deck_test.cpp:5

printf '%d controls, %d failed\n' "$cases" "$failures"
((failures == 0))
