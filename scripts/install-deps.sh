#!/usr/bin/env bash
# scripts/install-deps.sh [build] [run] [test] [lint] [fuzz] [cuda]
# Installs the Debian/Ubuntu packages of these groups that are missing, as root or through sudo. Of
# `cuda`, where nvcc is: the headers of cuDNN's frontend, into build/, and what its tests need. When
# none is missing it only asks dpkg, which takes no network and a few hundredths of a second.
# Where it cannot install, it prints the command, and what a cluster's modules must bring instead.
# PG_DEPS=none skips all this: CMake then looks for everything and says what it misses.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# shellcheck disable=SC2034  # read by name, below
{
  build_packages=(g++ make cmake ninja-build pkg-config libopenmpi-dev openmpi-bin
    libhdf5-openmpi-dev libdnnl-dev libtomlplusplus-dev libcli11-dev libfmt-dev
    nlohmann-json3-dev libsentencepiece-dev libxxhash-dev zlib1g-dev)
  run_packages=(linux-doc)
  # Slurm: the job scripts are tested on a cluster of two nodes on this machine.
  test_packages=(libgtest-dev slurm-wlm slurm-wlm-basic-plugins munge)
  lint_packages=(clang-format clang-tidy-16 shellcheck)
  fuzz_packages=(clang-16 libclang-rt-16-dev libomp-16-dev)
}

modules='a C++20 compiler (gcc >= 12 or clang >= 15), make, CMake >= 3.25, Ninja, pkg-config, MPI,
  parallel HDF5 >= 1.10, oneDNN >= 2.6, zlib, toml++ >= 3, CLI11 >= 2, fmt >= 9,
  nlohmann-json, SentencePiece, xxHash; for the tests GoogleTest and, for those of
  the job scripts, Slurm and munge; for the quickstart some text of
  your own (TEXT=...); for the lint clang-format 14, clang-tidy 16 and shellcheck; for
  the fuzz targets clang 16 with its runtime libraries'

if [[ ${PG_DEPS:-} == none ]]; then
  step packages "not touched (PG_DEPS=none); CMake finds them or says what is missing"
  exit 0
fi

# CUDA itself comes from the system.
has_cuda() { command -v nvcc >/dev/null || [[ -n ${CUDACXX:-} || -x /usr/local/cuda/bin/nvcc ]]; }

# Without these headers attention runs by our own kernels.
cudnn_frontend() {
  local folder=build/cudnn-frontend
  local python='from importlib import metadata as m
assert any(f.name == "cudnn_frontend.h" for f in m.files("nvidia-cudnn-frontend"))'
  if [[ -e $folder/include/cudnn_frontend.h || -e /usr/include/cudnn_frontend.h ||
    -n ${CUDNN_FRONTEND_DIR:-} ]] || python3 -c "$python" 2>/dev/null; then
    return 0
  fi
  step packages "cuDNN's frontend headers into $folder"
  quietly build/deps-cuda.log python3 -m pip install --no-deps --target "$folder" \
    nvidia-cudnn-frontend || step packages "none: attention will run by our own kernels alone"
}

packages=()
groups=()
for group in "${@:-build}"; do
  if [[ $group != cuda ]]; then
    groups+=("$group")
  elif has_cuda; then
    cudnn_frontend
    # The fibers of the simulated GPU, which its tests run on.
    [[ " $* " != *" test "* ]] || packages+=(libboost-context-dev)
  fi
done
if ((${#groups[@]} == 0)); then exit 0; fi
for group in "${groups[@]}"; do
  [[ $group =~ ^(build|run|test|lint|fuzz)$ ]] || die "no package group '$group'"
  declare -n list="${group}_packages"
  # The kernel's documentation is only the default text.
  [[ $group == run && -n ${TEXT:-} ]] || packages+=("${list[@]}")
done

by_modules() {
  printf 'Elsewhere (a cluster with modules, another system) load or install:\n  %s\n' "$modules"
  printf 'and run make again with PG_DEPS=none, or use CMake alone as README.md says.\n'
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  {
    printf 'error: this is neither Debian nor Ubuntu, so packages are not installed from here.\n'
    by_modules
  } >&2
  exit 1
fi

missing=()
installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' "${packages[@]}" 2>/dev/null || true)"
for package in "${packages[@]}"; do
  [[ $installed == *" installed:$package "* ]] || missing+=("$package")
done
# Container images often drop all of /usr/share/doc as packages unpack: then linux-doc is there
# without its text. PG_DOC_ROOT is for the test of this script.
doc_root=${PG_DOC_ROOT:-/usr/share/doc}
doc_options=()
if [[ " ${packages[*]} " == *" linux-doc "* ]]; then
  doc_options=(-o "DPkg::Options::=--path-include=$doc_root/linux-doc*")
  if [[ " ${missing[*]} " != *" linux-doc "* ]] &&
    ! compgen -G "$doc_root/linux-doc-*/Documentation" >/dev/null; then
    # Both: the text lies in a package that linux-doc names with the version.
    mapfile -t documents < <(dpkg-query -W -f '${Depends}\n' linux-doc |
      grep -oE 'linux-doc-[0-9.]+' | sort -u)
    missing+=("${documents[@]}")
    doc_options+=(--reinstall)
  fi
fi

if ((${#missing[@]} == 0)); then
  step packages "all ${#packages[@]} are there"
  exit 0
fi

apt_install=(apt-get install -y --no-install-recommends "${doc_options[@]}" "${missing[@]}")
as_root=()
if [[ $(id -u) != 0 ]]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
  else
    {
      printf 'error: %d packages are missing, and neither root nor a sudo without password is at hand. ' \
        "${#missing[@]}"
      printf 'Run this, then make again:\n'
      printf '  sudo apt-get update && sudo'
      printf ' %q' "${apt_install[@]}"
      printf '\n'
      by_modules
    } >&2
    exit 1
  fi
fi

# A mirror that is briefly away, or a lock that another apt holds, must not end the set-up.
apt_get() {
  local try
  for try in 1 2 3; do
    if "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 \
      -o DPkg::Lock::Timeout=300 "$@" </dev/null; then
      return 0
    fi
    printf '== try %d of: apt-get %s failed\n' "$try" "$*"
    ((try == 3)) || sleep "$((try * ${PG_RETRY_S:-5}))"
  done
  return 1
}

step packages "installing ${missing[*]}"
# A third party's broken source fails the update, but not what the others bring.
install_all() { apt_get update || true; apt_get "${apt_install[@]:1}"; }
quietly build/deps.log install_all
