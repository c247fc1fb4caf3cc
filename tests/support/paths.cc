#include "tests/support/paths.h"

namespace nibble {

const char* const kSourceDir = NIBBLE_SOURCE_DIR;
const char* const kReferenceData = NIBBLE_REFERENCE_DATA;

}  // namespace nibble
