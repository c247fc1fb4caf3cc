# The CUDA compiler: CUDACXX or nvcc in PATH where it is 12.4 or newer, else the wheels that `./setup.sh cuda`
# unpacked. Compiled for Ampere, Ada and Hopper, with PTX for what comes after. No GPU is needed.
if(DEFINED ENV{XDG_CACHE_HOME})
  set(cuda_wheels $ENV{XDG_CACHE_HOME}/nibble/cuda-13.0)
else()
  set(cuda_wheels $ENV{HOME}/.cache/nibble/cuda-13.0)
endif()
set(toolkit ${cuda_wheels}/nvidia/cu13)

function(nibble_nvcc_is_recent RESULT CANDIDATE)  # setup.sh asks the same
  execute_process(COMMAND ${CANDIDATE} --version OUTPUT_VARIABLE found ERROR_QUIET)
  if(NOT found MATCHES "release ([0-9.]+)," OR CMAKE_MATCH_1 VERSION_LESS 12.4)
    set(${RESULT} FALSE PARENT_SCOPE)
  endif()
endfunction()
find_program(CMAKE_CUDA_COMPILER NAMES $ENV{CUDACXX} nvcc VALIDATOR nibble_nvcc_is_recent
             NO_CMAKE_PATH NO_CMAKE_SYSTEM_PATH HINTS /usr/local/cuda/bin)
if(NOT CMAKE_CUDA_COMPILER AND EXISTS ${toolkit}/bin/nvcc)
  set(CMAKE_CUDA_COMPILER ${toolkit}/bin/nvcc CACHE FILEPATH "CUDA compiler" FORCE)
endif()
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "no CUDA compiler: run ./setup.sh cuda, or put nvcc 12.4 or newer in PATH")
endif()
if(CMAKE_CUDA_COMPILER STREQUAL ${toolkit}/bin/nvcc)
  # The wheels lack what a linker looks for: lib64 and names without a version.
  if(NOT EXISTS ${toolkit}/lib64)
    file(CREATE_LINK lib ${toolkit}/lib64 SYMBOLIC)
  endif()
  file(GLOB sonames ${toolkit}/lib/lib*.so.*)
  foreach(soname IN LISTS sonames)
    string(REGEX REPLACE "\\.so\\..*$" ".so" link ${soname})
    if(NOT EXISTS ${link})
      get_filename_component(target ${soname} NAME)
      file(CREATE_LINK ${target} ${link} SYMBOLIC)
    endif()
  endforeach()
  set(CUDAToolkit_ROOT ${toolkit})
endif()

if(NOT CMAKE_CUDA_HOST_COMPILER)
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)  # before enable_language; otherwise nvcc's default
  set(CMAKE_CUDA_ARCHITECTURES 80-real 89-real 90a-real 90-virtual)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 does not know that nvcc 12 and later speak C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
if(CMAKE_VERSION VERSION_LESS 3.26 AND NOT TARGET CUDA::nvToolsExt)
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)  # its finder wants a library that CUDA 13 no longer has
endif()
find_package(CUDAToolkit 12.4 REQUIRED)

# ptxas tells what each kernel takes (-v). The launcher keeps that beside the object, for the budget.
set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_SOURCE_DIR}/cmake/keep_ptxas_report.sh ${CMAKE_CXX_COMPILER_LAUNCHER})
