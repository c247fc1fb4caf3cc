# Every third-party package, with the oldest version that works and why it is here.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)   # JSON with key order kept (config.json is rewritten verbatim)
find_package(fmt 9.1 REQUIRED)              # formatting: GCC 12 has no std::format
find_package(spdlog 1.10 REQUIRED)          # logs on stderr, behind base/log.h
find_package(CLI11 2.1 REQUIRED)            # flags, subcommands, good errors
find_package(yaml-cpp 0.7 REQUIRED)         # llm-compressor recipes
find_package(OpenSSL 3.0 REQUIRED)          # SHA-256 of what we write (libcrypto only)
find_package(hwy 1.0.3 REQUIRED)            # SIMD with run-time dispatch: one source, every target
# RE2 2022-06: patterns out of recipes and checkpoints, matched in linear time. Debian's has no CMake package.
find_path(RE2_INCLUDE_DIR re2/re2.h REQUIRED)
find_library(RE2_LIBRARY re2 REQUIRED)
add_library(re2::re2 UNKNOWN IMPORTED)
set_target_properties(re2::re2 PROPERTIES
  IMPORTED_LOCATION "${RE2_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${RE2_INCLUDE_DIR}")
find_package(GTest 1.12 REQUIRED)           # tests
include(GoogleTest)
