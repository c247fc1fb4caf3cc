# nibble_room(NAME SOURCES a.cc … DEPENDS nibble::x … TESTS a_test.cc … TEST_DEPENDS lib …)
#
# One static library `nibble_NAME` (alias nibble::NAME) and, if TESTS are given, one test program
# `nibble_NAME_test` whose cases CTest lists one by one. Warnings are errors on our own code only. Sizes are
# int64_t, containers want size_t: a cast at each subscript would hide the conversions that lose something.
add_library(nibble_warnings INTERFACE)
target_compile_options(nibble_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wconversion;-Wno-sign-conversion;-Werror>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror;-Werror=all-warnings>)

function(nibble_room NAME)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS;TESTS;TEST_DEPENDS" ${ARGN})
  add_library(nibble_${NAME} STATIC ${ROOM_SOURCES})
  set_property(GLOBAL APPEND PROPERTY NIBBLE_ROOMS nibble_${NAME})  # merged by cmake/install.cmake
  add_library(nibble::${NAME} ALIAS nibble_${NAME})
  target_include_directories(nibble_${NAME} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src> $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>)
  target_link_libraries(nibble_${NAME} PUBLIC ${ROOM_DEPENDS} PRIVATE nibble_warnings ${ROOM_PRIVATE_DEPENDS})
  if(ROOM_TESTS)
    nibble_test(nibble_${NAME}_test SOURCES ${ROOM_TESTS} DEPENDS nibble::${NAME} ${ROOM_TEST_DEPENDS})
  endif()
endfunction()

# Reference data recorded from other software; tests that need it skip visibly where it is absent.
set(NIBBLE_REFERENCE_DATA "${CMAKE_SOURCE_DIR}/../shared/data" CACHE PATH
    "Folder with reference models and recorded outputs; may be absent")

# What a preset builds in order to test: `nibble_tests`. A preset may narrow the set (TSan runs what has
# threads) and put a word in front of the names, so that the tests of several presets fit in one list.
set(NIBBLE_TEST_FILTER "" CACHE STRING "Regular expression: build and register only these test programs")
set(NIBBLE_TEST_PREFIX "" CACHE STRING "Put in front of every test name")
set(NIBBLE_TEST_CASES "" CACHE STRING "GoogleTest filter: register only these cases")
add_custom_target(nibble_tests)

# The presets that `make test` builds compile a few sources of a target at a time (CMAKE_UNITY_BUILD), because
# most of a compiler's time goes to headers: a name in an unnamed namespace must be alone in its target, or the
# source told to stay alone, by this. `make clang` and `make tidy` see every source alone.
function(nibble_compile_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

# Tests are compiled for three presets, so compile time matters more than speed: little optimization, and of
# the sanitizers only AddressSanitizer, which checks the accesses of the code under test to their memory. With
# GCC, the headers of nearly every test are precompiled once per preset (each test includes what it uses all
# the same); ccache cannot share a precompiled header of Clang between folders.
function(nibble_test_options NAME)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${NAME} PRIVATE -O1 -fpch-preprocess
      -Wno-array-bounds -Wno-stringop-overflow -Wno-restrict)  # it sees them in std::string, where they are not
  elseif(NIBBLE_SANITIZE MATCHES "undefined")
    target_compile_options(${NAME} PRIVATE -O0 -fno-sanitize=undefined,fuzzer-no-link)
  endif()
endfunction()

# CTest slots that a test takes of the four that tools/run_tests.sh gives each CPU. Fuzz targets take one: they
# run for a fixed time, so many of them at once cost less of it.
set(NIBBLE_TEST_SLOTS 4)

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_executable(nibble_test_headers EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/test_headers.cc)
  target_precompile_headers(nibble_test_headers PRIVATE
    <gmock/gmock.h> <gtest/gtest.h> <nlohmann/json.hpp> <fmt/format.h>
    <algorithm> <atomic> <chrono> <cmath> <filesystem> <fstream> <functional> <map> <memory> <numeric> <random>
    <set> <sstream> <string> <thread> <vector>)
  target_link_libraries(nibble_test_headers PRIVATE
    nibble_warnings GTest::gmock GTest::gtest_main nlohmann_json::nlohmann_json fmt::fmt)
  nibble_test_options(nibble_test_headers)
endif()

add_library(nibble_test_paths STATIC EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/support/paths.cc)
target_include_directories(nibble_test_paths PUBLIC ${CMAKE_SOURCE_DIR})
target_compile_definitions(nibble_test_paths PRIVATE
  NIBBLE_REFERENCE_DATA="${NIBBLE_REFERENCE_DATA}" NIBBLE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

function(nibble_test NAME)
  cmake_parse_arguments(TEST "" "TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  if(NIBBLE_TEST_FILTER AND NOT NAME MATCHES "${NIBBLE_TEST_FILTER}")
    return()
  endif()
  add_executable(${NAME} ${TEST_SOURCES})
  add_dependencies(nibble_tests ${NAME})
  nibble_test_options(${NAME})
  if(TARGET nibble_test_headers)
    target_precompile_headers(${NAME} REUSE_FROM nibble_test_headers)
  endif()
  target_link_libraries(${NAME} PRIVATE
    ${TEST_DEPENDS} nibble_test_paths nibble_warnings GTest::gmock GTest::gtest_main)
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 900)  # a hang, not slowness: sanitizers cost a factor of ten on a busy machine
  endif()
  gtest_discover_tests(${NAME} TEST_PREFIX "${NIBBLE_TEST_PREFIX}" DISCOVERY_TIMEOUT 60
                       TEST_FILTER "${NIBBLE_TEST_CASES}"
                       PROPERTIES TIMEOUT ${TEST_TIMEOUT} PROCESSORS ${NIBBLE_TEST_SLOTS})
endfunction()
