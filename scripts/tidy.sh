#!/usr/bin/env bash
# scripts/tidy.sh [FILE.cpp...]
# clang-tidy over these files, or over all that the build compiles. A file is skipped while neither
# it nor any header nor .clang-tidy has changed since it was last found clean (build/tidy/).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tool=$(command -v clang-tidy-14 || command -v clang-tidy) || die "clang-tidy is not installed"
[[ -f build/compile_commands.json ]] || die "no build/compile_commands.json: run make build first"

files=("$@")
if ((${#files[@]} == 0)); then
  # What CMake compiles, less what it generates.
  mapfile -t files < <(sed -n "s|^ *\"file\": \"$root/\(.*\)\",*$|\1|p" \
    build/compile_commands.json | grep -v '^build' | sort -u)
fi
stamps=build/tidy
mkdir -p "$stamps"
newest=$(find .clang-tidy scripts/tidy.sh comm model io app tests -name '*.h' -o -name .clang-tidy \
  -o -name tidy.sh | xargs ls -t | head -n 1)
todo=()
for file in "${files[@]}"; do
  stamp=$stamps/${file//\//__}
  [[ -f $stamp && ! $file -nt $stamp && ! $newest -nt $stamp ]] || todo+=("$file")
done
step clang-tidy "${#todo[@]} of ${#files[@]} files to check"
((${#todo[@]} > 0)) || exit 0

# One file. Its findings come out in one piece, without the count of what was filtered out.
check() {
  local output status=0
  output=$("$TIDY" --quiet -p build "$1" 2>&1) || status=$?
  output=$(grep -vE '^[0-9]+ warnings? (generated|treated)|^Suppressed |^Use -header-filter' \
    <<<"$output" || true)
  [[ -z $output ]] || printf '%s\n' "$output"
  ((status != 0)) || touch "build/tidy/${1//\//__}"
  return "$status"
}
export -f check
export TIDY=$tool
printf '%s\0' "${todo[@]}" | xargs -0 -n 1 -P "$(cores)" bash -c 'check "$1"' check
