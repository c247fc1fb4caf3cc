#pragma once

namespace nibble {

// Set by the build; in a source of their own, so that the objects of others do not depend on the
// path of the checkout.
extern const char* const kSourceDir;
extern const char* const kReferenceData;  // may be absent

}  // namespace nibble
