# Every third-party package, with the oldest version that works and why it is here.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)   # JSON with key order kept (config.json is rewritten verbatim)
find_package(fmt 9.1 REQUIRED)              # formatting: GCC 12 has no std::format
find_package(spdlog 1.10 REQUIRED)          # logs on stderr, behind base/log.h
find_package(CLI11 2.1 REQUIRED)            # flags, subcommands, good errors
find_package(yaml-cpp 0.7 REQUIRED)         # llm-compressor recipes
find_package(OpenSSL 3.0 REQUIRED)          # SHA-256 of what we write (libcrypto only)
find_package(hwy 1.0.3 REQUIRED)            # SIMD with run-time dispatch: one source, every target
find_package(GTest 1.12 REQUIRED)           # tests
include(GoogleTest)
find_package(benchmark 1.7 QUIET)           # kernel benchmarks

# Paths below the source folder are hashed as relative ones: every clone on a machine shares the cache.
find_program(NIBBLE_CCACHE ccache)
if(NIBBLE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 ${NIBBLE_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
find_program(NIBBLE_MOLD mold)
if(NIBBLE_MOLD)
  add_link_options(-fuse-ld=mold)           # links the 100 MB bridge archive in a second
endif()
