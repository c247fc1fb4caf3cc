# `cmake --install`: the program, the public headers, every room and the Rust bridge merged into one
# libnibble.a, and a CMake package so that find_package(nibble) gives the target nibble::nibble.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(rooms GLOBAL PROPERTY NIBBLE_ROOMS)
list(REMOVE_ITEM rooms nibble_cli nibble_bench)  # the commands and what they measure belong to the program
set(archive ${CMAKE_BINARY_DIR}/libnibble.a)
set(script "create ${archive}\n")
foreach(room IN LISTS rooms)
  string(APPEND script "addlib $<TARGET_FILE:${room}>\n")
endforeach()
string(APPEND script "addlib $<TARGET_FILE:nibble_bridge>\nsave\nend\n")
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  set(archive_target --target=elf64-x86-64)  # else ar shows Rust's objects to LLVM's plugins, which complain
endif()
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/libnibble.mri CONTENT "${script}")
add_custom_command(OUTPUT ${archive}
  COMMAND ${CMAKE_COMMAND} -E rm -f ${archive}
  COMMAND ${CMAKE_AR} ${archive_target} -M < ${CMAKE_BINARY_DIR}/libnibble.mri
  DEPENDS ${rooms} nibble_bridge_build ${CMAKE_BINARY_DIR}/libnibble.mri
  COMMENT "Merging the rooms into libnibble.a")
add_custom_target(nibble_archive ALL DEPENDS ${archive})

install(TARGETS nibble RUNTIME)
install(FILES ${archive} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/nibble DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/nibbleConfig.cmake.in
  ${CMAKE_BINARY_DIR}/nibbleConfig.cmake INSTALL_DESTINATION ${package_dir}
  PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/nibbleConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/nibbleConfig.cmake ${CMAKE_BINARY_DIR}/nibbleConfigVersion.cmake
  DESTINATION ${package_dir})
