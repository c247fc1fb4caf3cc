# nibble_room(NAME SOURCES a.cc … DEPENDS nibble::x … TESTS a_test.cc … TEST_DEPENDS lib …)
#
# One static library `nibble_NAME` (alias nibble::NAME) and, if TESTS are given, one test program
# `nibble_NAME_test` whose cases CTest lists one by one. Warnings are errors on our own code only.
add_library(nibble_warnings INTERFACE)
target_compile_options(nibble_warnings INTERFACE -Wall -Wextra -Wshadow -Wconversion -Werror)

function(nibble_room NAME)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS;TESTS;TEST_DEPENDS" ${ARGN})
  add_library(nibble_${NAME} STATIC ${ROOM_SOURCES})
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

function(nibble_test NAME)
  cmake_parse_arguments(TEST "" "TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${NAME} ${TEST_SOURCES})
  target_include_directories(${NAME} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(${NAME} PRIVATE
    NIBBLE_REFERENCE_DATA="${NIBBLE_REFERENCE_DATA}" NIBBLE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  target_link_libraries(${NAME} PRIVATE ${TEST_DEPENDS} nibble_warnings GTest::gmock GTest::gtest_main)
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 300)
  endif()
  gtest_discover_tests(${NAME} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT ${TEST_TIMEOUT})
endfunction()
