# Everything Pentagrid links to, gathered in one target, pg::dependencies. All that is missing is
# named at once, each with the Debian package and the cluster module that bring it.

add_library(pg_dependencies INTERFACE)
add_library(pg::dependencies ALIAS pg_dependencies)

set(pg_missing "")
# pg_need(CONDITION-VARIABLE what package hint)
macro(pg_need found what package hint)
  if(NOT ${found})
    string(APPEND pg_missing "  ${what}\n    Debian: ${package}. Elsewhere: ${hint}.\n")
  endif()
endmacro()

find_package(MPI QUIET COMPONENTS C)
pg_need(MPI_C_FOUND "MPI (a C library and its mpicc)" "libopenmpi-dev openmpi-bin"
  "load the MPI module, or set MPI_HOME")
find_package(OpenMP QUIET COMPONENTS CXX)
pg_need(OpenMP_CXX_FOUND "OpenMP in the C++ compiler" "g++"
  "take a compiler that has it, by CXX=... or -DCMAKE_CXX_COMPILER=...")
find_package(Threads QUIET)
pg_need(Threads_FOUND "POSIX threads" "libc6-dev" "a C library with threads")
find_package(ZLIB QUIET)
pg_need(ZLIB_FOUND "zlib" "zlib1g-dev" "load the zlib module, or set ZLIB_ROOT")

# oneDNN 2.6 (Debian 12) or 3.x. Not by its CMake package: Debian's asks for OpenCL's headers, which
# only the GPU runtime needs. CMAKE_PREFIX_PATH or DNNL_ROOT point elsewhere.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp HINTS ${DNNL_ROOT} ENV DNNLROOT PATH_SUFFIXES include)
find_library(DNNL_LIBRARY dnnl HINTS ${DNNL_ROOT} ENV DNNLROOT PATH_SUFFIXES lib lib64)
if(DNNL_INCLUDE_DIR AND DNNL_LIBRARY)
  set(pg_dnnl_found TRUE)
endif()
pg_need(pg_dnnl_found "oneDNN 2.6 or later" "libdnnl-dev"
  "load the oneDNN (onednn, dnnl) module, or set DNNL_ROOT")

find_package(tomlplusplus QUIET CONFIG)
pg_need(tomlplusplus_FOUND "toml++ 3" "libtomlplusplus-dev" "set tomlplusplus_ROOT")
find_package(CLI11 QUIET CONFIG)
pg_need(CLI11_FOUND "CLI11 2" "libcli11-dev" "set CLI11_ROOT")
find_package(fmt QUIET CONFIG)
pg_need(fmt_FOUND "fmt 9 or later" "libfmt-dev" "load the fmt module, or set fmt_ROOT")
find_package(nlohmann_json QUIET CONFIG)
pg_need(nlohmann_json_FOUND "nlohmann-json 3" "nlohmann-json3-dev"
  "load the nlohmann-json module, or set nlohmann_json_ROOT")

# These two bring no CMake package in Debian.
find_package(PkgConfig QUIET)
pg_need(PKG_CONFIG_FOUND "pkg-config (finds SentencePiece and xxHash)" "pkg-config"
  "load the pkgconf module, or set PKG_CONFIG_EXECUTABLE")
if(PKG_CONFIG_FOUND)
  pkg_check_modules(sentencepiece QUIET IMPORTED_TARGET sentencepiece)
  pkg_check_modules(xxhash QUIET IMPORTED_TARGET libxxhash)
endif()
pg_need(sentencepiece_FOUND "SentencePiece" "libsentencepiece-dev"
  "set PKG_CONFIG_PATH to the folder of sentencepiece.pc")
pg_need(xxhash_FOUND "xxHash 0.8" "libxxhash-dev"
  "load the xxhash module, or set PKG_CONFIG_PATH to the folder of libxxhash.pc")

# The parallel HDF5: FindHDF5 asks its compiler wrapper, and Debian installs several flavours.
set(HDF5_PREFER_PARALLEL TRUE)
find_package(HDF5 QUIET COMPONENTS C)
set(pg_hdf5_what "parallel HDF5 1.10 or later")
if(HDF5_FOUND AND NOT HDF5_IS_PARALLEL)
  string(APPEND pg_hdf5_what " (the one at ${HDF5_INCLUDE_DIRS} is built without MPI)")
endif()
if(HDF5_FOUND AND HDF5_IS_PARALLEL)
  set(pg_hdf5_found TRUE)
endif()
pg_need(pg_hdf5_found "${pg_hdf5_what}" "libhdf5-openmpi-dev"
  "load the parallel HDF5 module (hdf5-mpi, phdf5), or set HDF5_ROOT to it")

if(pg_missing)
  message(FATAL_ERROR "Not found:\n${pg_missing}"
    "On Debian and Ubuntu `make deps` installs all of it.")
endif()

target_include_directories(pg_dependencies SYSTEM INTERFACE
  ${HDF5_INCLUDE_DIRS} ${DNNL_INCLUDE_DIR})
target_compile_definitions(pg_dependencies INTERFACE ${HDF5_DEFINITIONS} OMPI_SKIP_MPICXX)
# At -O3, g++ 12 sees an overflow in fmt 9's fill character that is not there (fmt issue 2989), and an
# overlap in std::string::insert (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(pg_dependencies INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-stringop-overflow> $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
target_link_libraries(pg_dependencies INTERFACE
  MPI::MPI_C OpenMP::OpenMP_CXX Threads::Threads ZLIB::ZLIB ${DNNL_LIBRARY}
  tomlplusplus::tomlplusplus CLI11::CLI11 fmt::fmt nlohmann_json::nlohmann_json
  PkgConfig::sentencepiece PkgConfig::xxhash ${HDF5_LIBRARIES})
