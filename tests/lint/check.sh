#!/usr/bin/env bash
# tests/lint/check.sh FOLDER
# The rules of this tree that no compiler knows: which folder may include which, where each library's
# headers stay, no #if at call sites, file length, words and paths that do not belong here. Bash, awk
# and grep only, since a cluster's login node has them. Prints file:line: rule: what; exits 1 if it
# found something. controls.sh breaks each rule once.
set -euo pipefail
cd "${1:?usage: check.sh FOLDER}"

mapfile -t sources < <(find app comm model io tests -type f \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort)
((${#sources[@]} > 0)) || { echo "check.sh: no sources in $PWD" >&2; exit 1; }
failed=0

awk '
  # One line a library: which headers are its own, which files of app, comm, model and io may
  # include them (tests may include any), and how to say so.
  BEGIN {
    n = 0
    library("^(mpi\\.h|comm/mpi_internal\\.h)$",
            "^((comm/(mpi_[^/]*|process_grid)|io/(checkpoint|hdf5)[^/]*)\\.cpp|comm/mpi_internal\\.h)$",
            "comm/mpi_*.cpp, comm/process_grid.cpp, io/checkpoint*.cpp, io/hdf5*.cpp")
    library("^(hdf5|H5[A-Za-z]*)\\.h$", "^io/([^/]*hdf5|checkpoint|token_file)[^/]*$",
            "io/*hdf5*, io/checkpoint*, io/token_file*")
    library("^(oneapi/|dnnl)", "^model/kernels/cpu/matmul[^/]*$", "model/kernels/cpu/matmul*")
    library("^omp\\.h$", "^(model/kernels/cpu/|app/prepare)", "model/kernels/cpu/, app/prepare*")
    library("^toml\\+\\+/", "^io/deck[^/]*\\.cpp$", "io/deck*.cpp")
    library("^CLI/", "^app/cli[^/]*\\.cpp$", "app/cli*.cpp")
    library("^(cuda|cublas|cudnn|nccl|nvtx3/|driver_types)", "^(comm/cuda|model/kernels/cuda)/",
            "comm/cuda/, model/kernels/cuda/")
    legal["comm"] = " comm "
    legal["model"] = " model comm "
    legal["io"] = " io comm "
    legal["app"] = " app model io comm "
    legal["tests"] = " tests app model io comm "
  }
  function library(headers, files, text) {
    n++
    lib_headers[n] = headers; lib_files[n] = files; lib_text[n] = text
  }
  function report(file, line, rule, text) {
    printf "%s:%d: %s: %s\n", file, line, rule, text
    bad = 1
  }
  function end_of_file() {
    if (file == "") return
    if (lines > 450) report(file, lines, "file-length", lines " lines; about 400 are one idea")
    if (file ~ /\.cuh?$|\.h$/ && file !~ /\.cu$/ && !once) report(file, 1, "pragma-once", "missing")
  }
  FNR == 1 {
    end_of_file()
    file = FILENAME; folder = file; sub(/\/.*/, "", folder)
    once = 0
  }
  { lines = FNR }
  /^[ \t]*#[ \t]*pragma[ \t]+once/ { once = 1 }
  /^[ \t]*#[ \t]*include[ \t]*[<"]/ {
    header = $0
    quoted = header ~ /^[^<"]*"/
    sub(/^[^<"]*[<"]/, "", header); sub(/[>"].*/, "", header)
    other = header
    if (!sub(/\/.*/, "", other)) other = ""
    known = index(" comm model io app tests ", " " other " ") > 0
    if (quoted && !known && folder != "tests")
      report(file, FNR, "include-path", "\"" header "\" does not start at the top of the tree")
    else if (quoted && known && index(legal[folder], " " other " ") == 0)
      report(file, FNR, "include-direction", folder " includes " header "; app -> {model, io} -> comm")
    if (folder != "tests")
      for (i = 1; i <= n; i++)
        if (header ~ lib_headers[i] && file !~ lib_files[i])
          report(file, FNR, "library-header", header " belongs in " lib_text[i])
  }
  # The build chooses files, so that no call site asks. A CPU kernel may ask for the instruction
  # set, the wrappers of oneDNN and HDF5 for the version.
  /^[ \t]*#[ \t]*(if|ifdef|ifndef|elif)([^a-z]|$)/ {
    if (!(/__AVX|__ARM_/ && file ~ /^model\/kernels\/cpu\//) &&
        !(/DNNL_VERSION/ && file ~ /^model\/kernels\/cpu\/matmul/) &&
        !(/H5_VERS/ && file ~ /^io\/([^\/]*hdf5|checkpoint|token_file)/))
      report(file, FNR, "conditional", "let CMake choose a file instead of: " $0)
  }
  END { end_of_file(); exit bad }
' "${sources[@]}" || failed=1

# Everything that is text, scripts and decks included. The words are split here, so that this file
# does not find itself.
mapfile -t texts < <(find app comm model io tests scripts cmake inputs .ci Makefile CMakeLists.txt \
  CMakePresets.json README.md -type f ! -path '*/__pycache__/*' 2>/dev/null)
forbidden() {  # RULE REGEX TEXT
  local found
  found=$(grep -nHIE "$2" "${texts[@]}" | cut -d: -f1,2) || return 0
  local place
  while read -r place; do printf '%s: %s: %s\n' "$place" "$1" "$3"; done <<<"$found"
  failed=1
}
forbidden unfinished '(^|[^[:alnum:]_])(TO''DO|FIX''ME)([^[:alnum:]_]|$)' \
  'finish it, refuse it, or open an issue'
forbidden absolute-path '(^|[^[:alnum:]_.)}])/(home|root)/' "a path of somebody's own machine"

exit "$failed"
