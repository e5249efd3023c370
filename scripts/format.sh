#!/usr/bin/env bash
# scripts/format.sh [--check]
# Formats the C++ files in place, or says which are not formatted. Version 14 decides, since each
# version of clang-format breaks some lines differently.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tool=$(command -v clang-format-14 || command -v clang-format) || die "clang-format is not installed"
[[ $("$tool" --version) == *"version 14."* ]] ||
  die "$tool is not version 14, which decides the format here: $("$tool" --version)"

mapfile -t files < <(find app comm model io tests \
  -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | sort)
if [[ ${1:-} == --check ]]; then
  step format "checking ${#files[@]} files"
  "$tool" --dry-run -Werror "${files[@]}"
else
  step format "${#files[@]} files"
  "$tool" -i "${files[@]}"
fi
