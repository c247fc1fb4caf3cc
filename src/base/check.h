#pragma once

#include <cstdio>
#include <cstdlib>

// CHECK guards against bugs in our own code and always runs; DCHECK only in debug builds.
// Neither may be reachable by user input: that is an Error.
#define NIBBLE_CHECK(condition)                                                          \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

#ifdef NDEBUG
#define NIBBLE_DCHECK(condition) \
  do {                           \
  } while (false)
#else
#define NIBBLE_DCHECK(condition) NIBBLE_CHECK(condition)
#endif
