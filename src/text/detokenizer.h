#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace nibble {

// Token stream → text deltas. Deltas concatenate to the decoded text, each is valid UTF-8 (partial
// characters are held back), and nothing after the start of a stop string is returned. Where
// several stop strings end in one token, the first of the list wins, as in vLLM.
//
// One exception: decoding turns a whole series of consecutive byte tokens into U+FFFD if any of
// them is invalid UTF-8. Characters that have been returned by then stay; the other bytes become
// U+FFFD.
class Detokenizer {
 public:
  // Keeps a reference to `tokenizer`. Throws kInvalidArgument for an empty stop string.
  Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
              bool skip_special_tokens = true);

  std::string Add(int32_t token);  // text that is now certain
  std::string Finish();            // what was held back, unless a stop string ended the stream
  bool stopped() const { return stopped_; }

 private:
  void Decode();
  std::string Release();

  const Tokenizer* tokenizer_;
  std::vector<std::string> stop_strings_;
  bool skip_special_tokens_;
  std::vector<int32_t> window_;  // decoded together, so that context-dependent spaces are right
  size_t num_settled_ = 0;       // tokens at the front of the window whose text is out
  std::string held_;             // decoded, not yet returned: could be the start of a stop string
  bool stopped_ = false;
  bool finishing_ = false;
};

}  // namespace nibble
