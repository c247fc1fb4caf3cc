# -DNIBBLE_SANITIZE=address,undefined | thread | fuzzer: set by the presets, applied to everything we compile.
set(NIBBLE_SANITIZE "" CACHE STRING "Sanitizers, comma separated")
if(NIBBLE_SANITIZE)
  string(REPLACE "fuzzer" "fuzzer-no-link" flags "${NIBBLE_SANITIZE}")
  add_compile_options(-fsanitize=${flags} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${flags})
endif()
