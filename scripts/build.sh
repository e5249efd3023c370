#!/usr/bin/env bash
# scripts/build.sh [--preset NAME] [--tests] [--configure-only] [TARGET...]
# Configures the preset's folder once (later CMake does so itself when its files change) and builds
# the targets, by default pentagrid, and with --tests everything. On a terminal Ninja shows its
# progress; elsewhere only what the compiler says is printed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=default tests=OFF configure_only=no targets=()
while (($# > 0)); do
  case $1 in
    --preset) preset=$2 && shift ;;
    --tests) tests=ON ;;
    --configure-only) configure_only=yes ;;
    *) targets+=("$1") ;;
  esac
  shift
done
folder=build
[[ $preset == default ]] || folder=build/$preset

# The tests' own dependency, GoogleTest, is asked for only when they are built. Once they are in, a
# plain `make build` leaves them in.
cache=$folder/CMakeCache.txt
if [[ ! -f $cache || (! -f $folder/build.ninja && ! -f $folder/Makefile) ]] ||
  { [[ $tests == ON ]] && ! grep -q '^PG_TESTS:BOOL=ON$' "$cache"; }; then
  generator=()
  command -v ninja >/dev/null || generator=(-G "Unix Makefiles")
  if [[ -f $cache ]]; then
    step configure "$folder again, with the tests"
    quietly build/configure.log cmake -DPG_TESTS=$tests "$folder"
  else
    step configure "$folder (preset $preset)"
    quietly build/configure.log cmake --preset "$preset" "${generator[@]}" -DPG_TESTS=$tests
  fi
fi
[[ $configure_only == no ]] || exit 0

if ((${#targets[@]} == 0)); then
  targets=(pentagrid)
  [[ $tests == OFF ]] || targets=(all)
fi
step build "$folder: ${targets[*]} ($(cores) cores)"
compile=(cmake --build "$folder" -j "$(cores)" --target "${targets[@]}")
if [[ ! -t 1 && -f $folder/build.ninja && $(ninja --help 2>&1 || true) == *--quiet* ]]; then
  "${compile[@]}" -- --quiet | { grep -vE '^(ninja: no work to do|-- )' || true; }
else
  "${compile[@]}"
fi
