#!/usr/bin/env bash
# scripts/tidy.sh [FILE.cpp...]
# clang-tidy over these files, or over the product's (the tests would double the time). A file is
# skipped while neither it nor any header nor .clang-tidy has changed since it was last found clean
# (stamps in build/tidy).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Version 14, Debian 12's default, does not compile <ranges> of its own standard library.
TIDY=$(command -v clang-tidy-16 || command -v clang-tidy) || die "clang-tidy is not installed"
# clang's own <omp.h> is in a package that would replace that of another version: g++'s serves, as
# the last folder looked into, without an attribute that clang does not know.
OMP_H=$(dirname "$(g++ -print-file-name=include/omp.h)")
[[ -f build/compile_commands.json ]] || die "no build/compile_commands.json: run make build first"

files=("$@")
if ((${#files[@]} == 0)); then
  # Of the sources, those that this build compiles.
  mapfile -t files < <(find app comm model io -name '*.cpp' | sort | while read -r file; do
    ! grep -qF "\"file\": \"$root/$file\"" build/compile_commands.json || echo "$file"
  done)
fi
mkdir -p build/tidy
export TIDY OMP_H stamp_of_headers=build/tidy/.headers

# The time of the newest thing that any file's result depends on.
mapfile -t headers < <(find comm model io app -name '*.h')
for file in .clang-tidy scripts/tidy.sh "${headers[@]}"; do
  [[ ! $file -nt $stamp_of_headers ]] || touch -r "$file" "$stamp_of_headers"
done
pending=()
for file in "${files[@]}"; do
  stamp=build/tidy/${file//\//__}.clean
  if [[ ! -f $stamp || $file -nt $stamp || $stamp_of_headers -nt $stamp ]]; then
    pending+=("$file")
  fi
done
step clang-tidy "${#pending[@]} of ${#files[@]} files to check"
((${#pending[@]} > 0)) || exit 0

check() {  # FILE
  local log=build/tidy/${1//\//__}.log
  if "$TIDY" --quiet -p build --extra-arg="-idirafter$OMP_H" --extra-arg='-D__malloc__(...)=' "$1" \
    >"$log" 2>&1; then
    mv "$log" "${log%.log}.clean"
    return 0
  fi
  return 1
}
export -f check
rm -f build/tidy/*.log
printf '%s\0' "${pending[@]}" | xargs -0 -n 1 -P "$(cores)" bash -c 'check "$1"' check && exit 0

# Every file that includes a header finds the same in it: print each finding once.
awk -v root="$root/" '
  FNR == 1 { show = 1 }
  /^[0-9]+ warnings? (generated|treated)/ || /^Suppressed / { next }
  /: (warning|error): / { show = !seen[$0]++ }
  show {
    if (index($0, root) == 1) $0 = substr($0, length(root) + 1)
    print
  }' build/tidy/*.log
exit 1
