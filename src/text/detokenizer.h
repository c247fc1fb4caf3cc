#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace nibble {

// Token stream → text deltas. Deltas concatenate to the decoded text, each is valid UTF-8 (partial
// characters are held back), and nothing at or after a stop string is ever returned.
class Detokenizer {
 public:
  Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
              bool skip_special_tokens = true);

  std::string Add(int32_t token);  // text that is now certain
  std::string Finish();            // what was held back, unless a stop string ended the stream
  bool stopped() const { return stopped_; }

 private:
  std::string Release();

  const Tokenizer* tokenizer_;
  std::vector<std::string> stop_strings_;
  bool skip_special_tokens_;
  std::vector<int32_t> tokens_;
  size_t prefix_begin_ =
      0;  // window of tokens decoded together, so that context-dependent spaces are right
  size_t prefix_end_ = 0;
  std::string held_;  // decoded, not yet returned: could be the start of a stop string
  bool stopped_ = false;
};

}  // namespace nibble
