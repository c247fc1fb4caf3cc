# One custom command: cargo build --locked → one static library and one generated header.
#
# The target folder lives under the user's cache, so a fresh clone rebuilds nothing it need not.
set(bridge_dir ${CMAKE_SOURCE_DIR}/rust/bridge)
function(nibble_cargo_is_recent RESULT CANDIDATE)  # an old one may stand first in PATH; setup.sh asks the same
  execute_process(COMMAND ${CANDIDATE} --version OUTPUT_VARIABLE found ERROR_QUIET)
  if(NOT found MATCHES "^cargo ([0-9]+\\.[0-9]+)" OR CMAKE_MATCH_1 VERSION_LESS 1.85)
    set(${RESULT} FALSE PARENT_SCOPE)
  endif()
endfunction()
find_program(CARGO cargo PATHS $ENV{HOME}/.cargo/bin VALIDATOR nibble_cargo_is_recent REQUIRED)
if(DEFINED ENV{XDG_CACHE_HOME})
  set(bridge_cache_default $ENV{XDG_CACHE_HOME}/nibble/cargo)
else()
  set(bridge_cache_default $ENV{HOME}/.cache/nibble/cargo)
endif()
set(NIBBLE_CARGO_TARGET ${bridge_cache_default} CACHE PATH "Cargo's target folder")
set(bridge_out ${CMAKE_BINARY_DIR}/rust)
file(GLOB bridge_sources CONFIGURE_DEPENDS ${bridge_dir}/src/*.rs)
add_custom_command(
  OUTPUT ${bridge_out}/libnibble_bridge.a ${bridge_out}/include/nibble_bridge.h
  # One compiler whatever the preset: another CC or CXX would make cargo build everything again.
  COMMAND ${CMAKE_COMMAND} -E env --unset=CC --unset=CXX CARGO_TARGET_DIR=${NIBBLE_CARGO_TARGET}
          NIBBLE_HEADER_DIR=${NIBBLE_CARGO_TARGET}/include
          ${CARGO} build --locked --release --manifest-path ${bridge_dir}/Cargo.toml
  COMMAND ${CMAKE_COMMAND} -E make_directory ${bridge_out}/include
  COMMAND ${CMAKE_COMMAND} -E copy ${NIBBLE_CARGO_TARGET}/release/libnibble_bridge.a ${bridge_out}/libnibble_bridge.a
  COMMAND ${CMAKE_COMMAND} -E copy ${NIBBLE_CARGO_TARGET}/include/nibble_bridge.h ${bridge_out}/include/nibble_bridge.h
  DEPENDS ${bridge_sources} ${bridge_dir}/Cargo.toml ${bridge_dir}/Cargo.lock ${bridge_dir}/build.rs
  USES_TERMINAL VERBATIM COMMENT "cargo build (tokenizer, template and table bridge)")
add_custom_target(nibble_bridge_build
  DEPENDS ${bridge_out}/libnibble_bridge.a ${bridge_out}/include/nibble_bridge.h)
file(MAKE_DIRECTORY ${bridge_out}/include)
add_library(nibble_bridge STATIC IMPORTED GLOBAL)
set_target_properties(nibble_bridge PROPERTIES IMPORTED_LOCATION ${bridge_out}/libnibble_bridge.a)
target_include_directories(nibble_bridge SYSTEM INTERFACE ${bridge_out}/include)
target_link_libraries(nibble_bridge INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
add_dependencies(nibble_bridge nibble_bridge_build)
