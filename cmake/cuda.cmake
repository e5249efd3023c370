# The GPU backend, as the object library pg_gpu: CUDA where the toolkit is (PG_CUDA=AUTO), always
# (ON) or never (OFF). Without it the same library holds functions that say so.

set(PG_CUDA AUTO CACHE STRING "Build for NVIDIA GPUs: AUTO (where nvcc is), ON or OFF")
set_property(CACHE PG_CUDA PROPERTY STRINGS AUTO ON OFF)
set(PG_CUDA_ARCHITECTURES 90 CACHE STRING
    "GPUs to compile for: 80 (A100), 90 (H100, H200, GH200), 100 (B200), or several with ';'")

set(pg_cuda_found FALSE)
if(PG_CUDA STREQUAL "AUTO" OR PG_CUDA)
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES ${PG_CUDA_ARCHITECTURES})
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    # CMake 3.25 does not know how newer compilers are told the standard.
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit 12.4 QUIET)
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${NCCL_ROOT} ENV NCCL_HOME ${CUDAToolkit_INCLUDE_DIRS}
      PATH_SUFFIXES include)
    find_library(NCCL_LIBRARY nccl HINTS ${NCCL_ROOT} ENV NCCL_HOME ${CUDAToolkit_LIBRARY_DIR}
      PATH_SUFFIXES lib lib64)
    set(pg_cuda_missing "")
    if(NOT CUDAToolkit_FOUND)
      string(APPEND pg_cuda_missing "  CUDA Toolkit 12.4 or later with cuBLAS (cudart, cublasLt)\n")
    endif()
    if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
      string(APPEND pg_cuda_missing "  NCCL 2.18 or later: load its module, or set NCCL_ROOT\n")
    endif()
    if(pg_cuda_missing STREQUAL "")
      set(pg_cuda_found TRUE)
    endif()
  else()
    set(pg_cuda_missing "  nvcc: load the CUDA module, or set CUDACXX\n")
  endif()
  if(NOT pg_cuda_found AND NOT PG_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "PG_CUDA=ON, but not found:\n${pg_cuda_missing}")
  endif()
endif()

# Without a GPU: also what the tests link, which need none.
file(GLOB pg_no_gpu_sources CONFIGURE_DEPENDS
  ${CMAKE_SOURCE_DIR}/comm/no_gpu/*.cpp ${CMAKE_SOURCE_DIR}/model/kernels/no_gpu/*.cpp)
add_library(pg_no_gpu OBJECT ${pg_no_gpu_sources})
target_link_libraries(pg_no_gpu PUBLIC pentagrid_core)

if(pg_cuda_found)
  message(STATUS "CUDA ${CUDAToolkit_VERSION} for sm_${PG_CUDA_ARCHITECTURES}, NCCL in ${NCCL_LIBRARY}")
  file(GLOB pg_cuda_sources CONFIGURE_DEPENDS
    ${CMAKE_SOURCE_DIR}/comm/cuda/*.cpp ${CMAKE_SOURCE_DIR}/model/kernels/cuda/*.cpp
    ${CMAKE_SOURCE_DIR}/model/kernels/cuda/*.cu)
  add_library(pg_cuda OBJECT ${pg_cuda_sources})
  set_target_properties(pg_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  # Kernels use constexpr functions of comm/dtype.h.
  target_compile_options(pg_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Werror=all-warnings;-lineinfo>")
  # fmt 9 at compile time is too much for nvcc.
  target_compile_definitions(pg_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=> $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
  target_include_directories(pg_cuda SYSTEM PUBLIC ${NCCL_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(pg_cuda PUBLIC pentagrid_core CUDA::cudart_static CUDA::cublasLt
    ${NCCL_LIBRARY})
  add_library(pg_gpu ALIAS pg_cuda)
else()
  add_library(pg_gpu ALIAS pg_no_gpu)
endif()
