# nibble_room(NAME SOURCES a.cc … DEPENDS nibble::x … TESTS a_test.cc … TEST_DEPENDS lib …)
#
# One static library `nibble_NAME` (alias nibble::NAME) and, if TESTS are given, one test program
# `nibble_NAME_test` whose cases CTest lists one by one. Warnings are errors on our own code only.
add_library(nibble_warnings INTERFACE)
target_compile_options(nibble_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wconversion;-Werror>
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

# Reference data recorded from other people's software; tests that need it skip visibly where it is absent.
set(NIBBLE_REFERENCE_DATA "${CMAKE_SOURCE_DIR}/../shared/data" CACHE PATH
    "Folder with reference models and recorded outputs; may be absent")

# What a preset builds in order to test: `nibble_tests`. A preset may narrow the set (TSan runs what has
# threads) and put a word in front of the names, so that the tests of several presets fit in one list.
set(NIBBLE_TEST_FILTER "" CACHE STRING "Regular expression: build and register only these test programs")
set(NIBBLE_TEST_PREFIX "" CACHE STRING "Put in front of every test name")
set(NIBBLE_TEST_CASES "" CACHE STRING "GoogleTest filter: register only these cases")
add_custom_target(nibble_tests)

# CTest slots that a test takes of the four that tools/run_tests.sh gives each CPU. Fuzz targets take one: they
# run for a fixed time, so many of them at once cost less of it.
set(NIBBLE_TEST_SLOTS 4)

function(nibble_test NAME)
  cmake_parse_arguments(TEST "" "TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  if(NIBBLE_TEST_FILTER AND NOT NAME MATCHES "${NIBBLE_TEST_FILTER}")
    return()
  endif()
  add_executable(${NAME} ${TEST_SOURCES})
  add_dependencies(nibble_tests ${NAME})
  target_include_directories(${NAME} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(${NAME} PRIVATE
    NIBBLE_REFERENCE_DATA="${NIBBLE_REFERENCE_DATA}" NIBBLE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  target_link_libraries(${NAME} PRIVATE ${TEST_DEPENDS} nibble_warnings GTest::gmock GTest::gtest_main)
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 900)  # a hang, not slowness: sanitizers cost a factor of ten on a busy machine
  endif()
  gtest_discover_tests(${NAME} TEST_PREFIX "${NIBBLE_TEST_PREFIX}" DISCOVERY_TIMEOUT 60
                       TEST_FILTER "${NIBBLE_TEST_CASES}"
                       PROPERTIES TIMEOUT ${TEST_TIMEOUT} PROCESSORS ${NIBBLE_TEST_SLOTS})
endfunction()
