#!/usr/bin/env bash
# The scripts behind `make`, on a copy of them among stand-ins for apt, sudo, dpkg, mpirun and the
# program itself, each of which writes down how it was called.
set -euo pipefail
source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0 cases=0

claim() {  # CLAIM command...: the command must succeed
  cases=$((cases + 1))
  if ! "${@:2}"; then
    printf 'FAILED %s\n-- calls:\n%s\n-- output:\n%s\n' "$1" "$(<"$tree/calls")" "$output"
    failures=$((failures + 1))
  fi
}
called() { grep -qxF -- "$1" "$tree/calls"; }
called_with() { grep -qF -- " $1 " "$tree/calls"; }
not_called() { ! grep -q -- "$1" "$tree/calls"; }
says() { [[ $output == *"$1"* ]]; }
exits() { [[ $status == "$1" ]]; }
both() { "${@:1:2}" && "${@:3}"; }  # a claim of two words, and another
stand_in() {  # NAME body
  printf '#!/bin/bash\necho "%s $*" >>"%s/calls"\n%s\n' "${1##*/}" "$tree" "$2" >"$tree/$1"
  chmod +x "$tree/$1"
}
run() {  # script and its arguments, in the copy
  status=0
  : >"$tree/calls"
  output=$(PATH=$tree/bin:$PATH PG_DOC_ROOT=$tree/doc PG_RETRY_S=0 bash "$tree/scripts/$1" \
    "${@:2}" 2>&1 </dev/null) || status=$?
}

mkdir -p "$tree"/{bin,build,inputs,doc/linux-doc-6.1/Documentation}
cp -r "$source_tree/scripts" "$tree"
unset TEXT PG_DEPS OMP_NUM_THREADS

# -- packages ----------------------------------------------------------------------------------------
# Answers as dpkg-query does, for the packages named in the file `installed`.
stand_in bin/dpkg-query 'for word; do
  grep -qx -- "$word" "'"$tree"'/installed" && printf "installed:%s " "$word"
done; true'
stand_in bin/apt-get 'exit 0'
stand_in bin/id 'echo 1000'
stand_in bin/sudo 'exit 1'

# With nothing installed, all are asked for: that is the list.
: >"$tree/installed"
run install-deps.sh build run test lint
sed -n 's/^dpkg-query -W -f [^ ]* *//p' "$tree/calls" | tr ' ' '\n' >"$tree/all"
cp "$tree/all" "$tree/installed"
claim all_that_is_missing_is_counted says "$(grep -c . "$tree/all") packages are missing"
run install-deps.sh build run test lint
claim nothing_is_installed_when_all_is_there both exits 0 not_called 'apt-get\|sudo'

grep -vx libdnnl-dev "$tree/installed" >"$tree/fewer" && mv "$tree/fewer" "$tree/installed"
run install-deps.sh build
claim without_root_it_fails exits 1
claim without_root_the_exact_command_is_printed says \
  'sudo apt-get install -y --no-install-recommends libdnnl-dev'
claim without_root_the_modules_are_named says 'parallel HDF5'
claim without_root_apt_is_not_called not_called 'apt-get'
run install-deps.sh test
claim another_groups_missing_package_does_not_matter exits 0
PG_DEPS=none run install-deps.sh build
claim pg_deps_none_touches_nothing both exits 0 not_called 'dpkg\|apt-get\|sudo'

stand_in bin/sudo 'shift; [[ $1 == true ]] || exec "$@"'
run install-deps.sh build
claim with_sudo_only_the_missing_package_is_installed called \
  'apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends libdnnl-dev'
stand_in bin/id 'echo 0'
run install-deps.sh build
claim root_needs_no_sudo both not_called '^sudo' called \
  'apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends libdnnl-dev'

# Fails twice, then works.
stand_in bin/apt-get 'echo . >>"'"$tree"'/tries"; (($(wc -l <"'"$tree"'/tries") > 2))'
run install-deps.sh build
claim a_transient_failure_is_tried_again exits 0
stand_in bin/apt-get 'echo "E: no such mirror"; exit 100'
run install-deps.sh build
claim a_lasting_failure_ends_it_and_shows_why both exits 1 says 'E: no such mirror'

echo libdnnl-dev >>"$tree/installed"
rm -r "$tree/doc/linux-doc-6.1"
stand_in bin/dpkg-query 'if [[ $* == *Depends* ]]; then echo "linux-doc-6.1 (= 6.1.1-1)"; exit; fi
for word; do grep -qx -- "$word" "'"$tree"'/installed" && printf "installed:%s " "$word"; done; true'
stand_in bin/apt-get 'exit 0'
run install-deps.sh build run
claim a_text_that_dpkg_left_out_is_installed_again grep -q \
  -- "--path-include=.*linux-doc\* --reinstall linux-doc-6.1$" "$tree/calls"
TEXT=mine.txt run install-deps.sh build run
claim own_text_needs_no_linux_doc both exits 0 not_called 'apt-get'

# -- quickstart --------------------------------------------------------------------------------------
cat >"$tree/inputs/quickstart.toml" <<'DECK'
[run]
output = "runs/quick"   # a comment
[model]
vocab = 4096            # another
[data]
text = "/usr/share/doc/x"
train = "runs/tokens.h5"
[train]
steps = 60
DECK
# The program: train writes a loss for each step and stops or ends.
stand_in build/pentagrid 'case $1 in
  train) mkdir -p runs/quick/checkpoints/step-000000050
    if [[ $* == *stop_after* ]]; then
      echo "{\"step\":1,\"aux_loss\":0,\"loss\":8.25}" >runs/quick/metrics.jsonl
      exit "${FAKE_EXIT:-75}"
    fi
    mkdir runs/quick/checkpoints/step-000000060
    echo "{\"step\": 2, \"loss\": 5.5e0, \"lr\":1}" >>runs/quick/metrics.jsonl ;;
esac'
stand_in bin/mpirun 'shift 3; exec "$@"'

run quickstart.sh
claim the_quickstart_runs exits 0
claim it_prepares_the_decks_text called 'pentagrid prepare inputs/quickstart.toml'
claim it_trains_on_two_ranks_up_to_a_stop called \
  'mpirun --quiet -np 2 build/pentagrid train inputs/quickstart.toml run.stop_after=50'
claim it_goes_on_from_the_checkpoint called \
  'mpirun --quiet -np 2 build/pentagrid train inputs/quickstart.toml checkpoint.resume=latest'
claim it_shows_the_loss_falling says 'from 8.250 at step 1 to 5.500 at step 2'
claim it_says_where_the_checkpoint_is says 'runs/quick/checkpoints/step-000000060'

run quickstart.sh
claim a_second_run_trains_again_and_keeps_the_first_one \
  both exits 0 test -f "$tree/runs/quick.previous/metrics.jsonl"

TEXT='a.txt  docs/*.rst "q\' run quickstart.sh
claim other_text_is_an_array_of_words called_with 'data.text=["a.txt", "docs/*.rst", "\"q\\"]'
claim other_text_has_its_own_files both not_called 'runs/tokens.h5' \
  grep -q 'train.* data.train="runs/quickstart-text-[0-9]*/train.h5"' "$tree/calls"
touch "$tree/two words.txt"
TEXT='two words.txt' run quickstart.sh
claim one_file_may_have_blanks_in_its_name called_with 'data.text=["two words.txt"]'
FAKE_EXIT=3 run quickstart.sh
claim the_programs_exit_code_comes_through exits 3
FAKE_EXIT=0 run quickstart.sh
claim a_training_that_does_not_stop_is_a_failure exits 1

printf '%d claims, %d failed\n' "$cases" "$failures"
((failures == 0))
