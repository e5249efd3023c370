# Everything Pentagrid links to, gathered in one target, pg::dependencies. A missing package ends
# the configuration with a sentence on what brings it.

add_library(pg_dependencies INTERFACE)
add_library(pg::dependencies ALIAS pg_dependencies)

find_package(MPI REQUIRED COMPONENTS C)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
# oneDNN 2.6 (Debian 12) or 3.x. Not by its CMake package: Debian's asks for OpenCL's headers, which
# only the GPU runtime needs. CMAKE_PREFIX_PATH or DNNL_ROOT point elsewhere.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp HINTS ${DNNL_ROOT} ENV DNNLROOT PATH_SUFFIXES include)
find_library(DNNL_LIBRARY dnnl HINTS ${DNNL_ROOT} ENV DNNLROOT PATH_SUFFIXES lib lib64)
if(NOT DNNL_INCLUDE_DIR OR NOT DNNL_LIBRARY)
  message(FATAL_ERROR "oneDNN was not found. Debian: install libdnnl-dev; on a cluster load the "
    "oneDNN (onednn, dnnl) module or set DNNL_ROOT.")
endif()
find_package(tomlplusplus CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(fmt CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)

find_package(PkgConfig REQUIRED)
pkg_check_modules(sentencepiece REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)

# The parallel HDF5: FindHDF5 asks its compiler wrapper, and Debian installs several flavours.
set(HDF5_PREFER_PARALLEL TRUE)
find_package(HDF5 REQUIRED COMPONENTS C)
if(NOT HDF5_IS_PARALLEL)
  message(FATAL_ERROR "HDF5 at ${HDF5_INCLUDE_DIRS} is built without MPI. Debian: install "
    "libhdf5-openmpi-dev; on a cluster load the parallel HDF5 module (hdf5-mpi, phdf5) or set "
    "HDF5_ROOT to it.")
endif()

target_include_directories(pg_dependencies SYSTEM INTERFACE
  ${HDF5_INCLUDE_DIRS} ${DNNL_INCLUDE_DIR})
target_compile_definitions(pg_dependencies INTERFACE ${HDF5_DEFINITIONS} OMPI_SKIP_MPICXX)
target_link_libraries(pg_dependencies INTERFACE
  MPI::MPI_C OpenMP::OpenMP_CXX Threads::Threads ZLIB::ZLIB ${DNNL_LIBRARY}
  tomlplusplus::tomlplusplus CLI11::CLI11 fmt::fmt spdlog::spdlog nlohmann_json::nlohmann_json
  PkgConfig::sentencepiece PkgConfig::xxhash ${HDF5_LIBRARIES})
