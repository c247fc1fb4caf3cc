#pragma once

namespace nibble {

// Known to the build; in a source of their own, so that no other depends on where the checkout is.
extern const char* const kSourceDir;
extern const char* const kReferenceData;  // may be absent

}  // namespace nibble
