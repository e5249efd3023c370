#!/usr/bin/env bash
# Format, shell scripts, the tree's own rules, headers that compile alone, clang-tidy. All are run,
# so that one call shows everything; the exit status is 1 if any of them found something.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

failed=()
"$root/scripts/format.sh" --check || failed+=(format)

mapfile -t shell < <(find scripts tests .ci/run -name '*.sh' -o -name '*.sbatch' -o -path .ci/run | sort)
step shellcheck "${#shell[@]} scripts"
shellcheck -S warning -x -P SCRIPTDIR "${shell[@]}" || failed+=(shellcheck)

step rules "includes, file length, words"
bash tests/lint/check.sh . || failed+=(rules)

"$root/scripts/build.sh" --tests --configure-only
"$root/scripts/build.sh" --tests headers_alone || failed+=(headers_alone)
"$root/scripts/tidy.sh" || failed+=(clang-tidy)

((${#failed[@]} == 0)) || die "lint failed: ${failed[*]}"
step lint "nothing found"
