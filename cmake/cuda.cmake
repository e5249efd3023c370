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
    find_path(PG_NVTX_INCLUDE_DIR nvtx3/nvToolsExt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    mark_as_advanced(PG_NVTX_INCLUDE_DIR)
    if(NOT CUDAToolkit_FOUND OR NOT TARGET CUDA::cublasLt OR NOT PG_NVTX_INCLUDE_DIR)
      string(APPEND pg_cuda_missing "  CUDA Toolkit 12.4 or later with cuBLAS and NVTX (cudart, cublasLt, nvtx3)\n")
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
  elseif(NOT pg_cuda_found)
    message(STATUS "Without CUDA; not found:\n${pg_cuda_missing}")
  endif()
endif()

# Attention by cuDNN's graphs (PG_CUDNN=AUTO: where CUDA, cuDNN and its frontend's headers are),
# always (ON), or by our own kernels alone (OFF).
set(PG_CUDNN AUTO CACHE STRING "Attention by cuDNN: AUTO (where it is), ON or OFF")
set_property(CACHE PG_CUDNN PROPERTY STRINGS AUTO ON OFF)
set(CUDNN_FRONTEND_DIR "" CACHE PATH "Where cudnn_frontend.h is, itself or in include/")
set(pg_cudnn_found FALSE)
if((PG_CUDNN STREQUAL "AUTO" AND pg_cuda_found) OR (PG_CUDNN AND NOT PG_CUDNN STREQUAL "AUTO"))
  set(pg_cudnn_missing "")
  if(NOT pg_cuda_found)
    string(APPEND pg_cudnn_missing "  CUDA\n")
  endif()
  find_path(CUDNN_INCLUDE_DIR cudnn_version.h HINTS ${CUDNN_ROOT} ENV CUDNN_ROOT
    ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
  find_library(CUDNN_LIBRARY cudnn HINTS ${CUDNN_ROOT} ENV CUDNN_ROOT ${CUDAToolkit_LIBRARY_DIR}
    PATH_SUFFIXES lib lib64)
  set(pg_cudnn_major 0)
  if(CUDNN_INCLUDE_DIR)
    file(STRINGS ${CUDNN_INCLUDE_DIR}/cudnn_version.h pg_cudnn_major REGEX "define CUDNN_MAJOR")
    string(REGEX REPLACE "[^0-9]" "" pg_cudnn_major "${pg_cudnn_major}")
  endif()
  if(NOT CUDNN_LIBRARY OR pg_cudnn_major LESS 9)
    string(APPEND pg_cudnn_missing "  cuDNN 9 or later: load its module, or set CUDNN_ROOT\n")
  endif()
  if(pg_cuda_found AND NOT TARGET CUDA::nvrtc)
    string(APPEND pg_cudnn_missing "  NVRTC, which cuDNN's frontend calls: part of the CUDA Toolkit\n")
  endif()
  # The Python package nvidia-cudnn-frontend carries the headers: installed for Python itself, or
  # by scripts/install-deps.sh in build/.
  find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${CUDNN_FRONTEND_DIR}
    ENV CUDNN_FRONTEND_DIR ${CMAKE_SOURCE_DIR}/build/cudnn-frontend ${CUDNN_INCLUDE_DIR}
    PATH_SUFFIXES include)
  if(NOT CUDNN_FRONTEND_INCLUDE_DIR)
    find_program(PG_PYTHON NAMES python3 python)
    mark_as_advanced(PG_PYTHON)
    if(PG_PYTHON)
      execute_process(COMMAND ${PG_PYTHON} -c
        "from importlib import metadata as m; print(*[f.locate().parent for f in m.files('nvidia-cudnn-frontend') if f.name == 'cudnn_frontend.h'][:1])"
        OUTPUT_VARIABLE pg_frontend OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
      find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${pg_frontend})
    endif()
  endif()
  if(NOT CUDNN_FRONTEND_INCLUDE_DIR)
    string(APPEND pg_cudnn_missing "  cudnn_frontend.h (github.com/NVIDIA/cudnn-frontend, or the "
      "Python package nvidia-cudnn-frontend): set CUDNN_FRONTEND_DIR\n")
  endif()
  if(pg_cudnn_missing STREQUAL "")
    set(pg_cudnn_found TRUE)
  elseif(NOT PG_CUDNN STREQUAL "AUTO")
    message(FATAL_ERROR "PG_CUDNN=ON, but not found:\n${pg_cudnn_missing}")
  elseif(pg_cuda_found)
    message(STATUS "Attention on the GPU by our own kernels alone; not found:\n${pg_cudnn_missing}")
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
  if(pg_cudnn_found)
    message(STATUS "Attention by cuDNN in ${CUDNN_LIBRARY}, frontend in ${CUDNN_FRONTEND_INCLUDE_DIR}")
    list(FILTER pg_cuda_sources EXCLUDE REGEX "/no_cudnn_")
  else()
    list(FILTER pg_cuda_sources EXCLUDE REGEX "/cudnn_")
  endif()
  add_library(pg_cuda OBJECT ${pg_cuda_sources})
  set_target_properties(pg_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  # Kernels use constexpr functions of comm/dtype.h.
  target_compile_options(pg_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Werror=all-warnings;-lineinfo>")
  string(REPLACE ";" "," pg_architectures "${PG_CUDA_ARCHITECTURES}")
  # fmt 9 at compile time is too much for nvcc.
  target_compile_definitions(pg_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=> $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>
    "PG_CUDA_ARCHITECTURES=\"${pg_architectures}\"")
  target_include_directories(pg_cuda SYSTEM PUBLIC ${NCCL_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(pg_cuda PUBLIC pentagrid_core CUDA::cudart_static CUDA::cublasLt
    ${NCCL_LIBRARY})
  if(pg_cudnn_found)
    target_include_directories(pg_cuda SYSTEM PRIVATE ${CUDNN_INCLUDE_DIR}
      ${CUDNN_FRONTEND_INCLUDE_DIR})
    target_link_libraries(pg_cuda PUBLIC ${CUDNN_LIBRARY} CUDA::nvrtc)
    # CMake links nvrtc's users to the driver's library, which machines without a GPU have not.
    target_link_options(pg_cuda PUBLIC LINKER:--as-needed)
  endif()
  add_library(pg_gpu ALIAS pg_cuda)
else()
  add_library(pg_gpu ALIAS pg_no_gpu)
endif()
