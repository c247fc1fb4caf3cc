# One custom command: cargo build --locked → one static library and one generated header.
#
# The target folder lives under the user's cache, so a fresh clone rebuilds nothing it need not.
set(bridge_dir ${CMAKE_SOURCE_DIR}/rust/bridge)
file(STRINGS ${bridge_dir}/Cargo.toml bridge_rust_version REGEX "^rust-version")
string(REGEX REPLACE "[^0-9.]" "" bridge_rust_version "${bridge_rust_version}")
function(nibble_cargo_is_recent RESULT CANDIDATE)  # an old one may stand first in PATH; setup.sh asks the same
  execute_process(COMMAND ${CANDIDATE} --version OUTPUT_VARIABLE found ERROR_QUIET)
  if(NOT found MATCHES "^cargo ([0-9]+\\.[0-9]+)" OR CMAKE_MATCH_1 VERSION_LESS bridge_rust_version)
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
# Several checkouts may share the target folder. A header folder of its own for each makes cargo run
# build.rs again when another checkout built last, and with it whatever came from there.
string(SHA256 bridge_checkout ${CMAKE_SOURCE_DIR})
string(SUBSTRING ${bridge_checkout} 0 12 bridge_checkout)
set(bridge_header_dir ${NIBBLE_CARGO_TARGET}/include-${bridge_checkout})
file(GLOB_RECURSE bridge_sources CONFIGURE_DEPENDS ${bridge_dir}/src/*.rs)
file(MAKE_DIRECTORY ${NIBBLE_CARGO_TARGET} ${bridge_out}/include)
# The lock holds until the results are copied. One compiler whatever the preset: another CC or CXX
# would make cargo build everything again.
set(bridge_build "\"$CARGO\" build --locked --release --manifest-path \"$MANIFEST\" && \
cp -f \"$CARGO_TARGET_DIR/release/libnibble_bridge.a\" \"$OUT/\" && \
cp -f \"$NIBBLE_HEADER_DIR/nibble_bridge.h\" \"$OUT/include/\"")
add_custom_command(
  OUTPUT ${bridge_out}/libnibble_bridge.a ${bridge_out}/include/nibble_bridge.h
  COMMAND ${CMAKE_COMMAND} -E env --unset=CC --unset=CXX CARGO=${CARGO}
          CARGO_TARGET_DIR=${NIBBLE_CARGO_TARGET} NIBBLE_HEADER_DIR=${bridge_header_dir}
          MANIFEST=${bridge_dir}/Cargo.toml OUT=${bridge_out}
          flock ${NIBBLE_CARGO_TARGET}/nibble.lock sh -c "${bridge_build}"
  DEPENDS ${bridge_sources} ${bridge_dir}/Cargo.toml ${bridge_dir}/Cargo.lock ${bridge_dir}/build.rs
  USES_TERMINAL VERBATIM COMMENT "cargo build (tokenizer, template and table bridge)")
add_custom_target(nibble_bridge_build
  DEPENDS ${bridge_out}/libnibble_bridge.a ${bridge_out}/include/nibble_bridge.h)
add_library(nibble_bridge STATIC IMPORTED GLOBAL)
set_target_properties(nibble_bridge PROPERTIES IMPORTED_LOCATION ${bridge_out}/libnibble_bridge.a)
target_include_directories(nibble_bridge SYSTEM INTERFACE ${bridge_out}/include)
target_link_libraries(nibble_bridge INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
add_dependencies(nibble_bridge nibble_bridge_build)
