#!/usr/bin/env bash
# scripts/format.sh [--check]
# Formats the C++ files in place, or says which are not formatted. Version 14 decides, since each
# version of clang-format breaks some lines differently.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tool=$(command -v clang-format-14 || command -v clang-format) || die "clang-format is not installed"
[[ $("$tool" --version) == *"version 14."* ]] ||
  die "$tool is not version 14, which decides the format here: $("$tool" --version)"

mapfile -t files < <(git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' |
  while read -r file; do [[ ! -f $file ]] || printf '%s\n' "$file"; done)
if [[ ${1:-} == --check ]]; then
  step format "checking ${#files[@]} files"
  "$tool" --dry-run -Werror "${files[@]}"
else
  step format "${#files[@]} files"
  "$tool" -i "${files[@]}"
fi
