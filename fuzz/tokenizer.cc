// Tokenizer files, tokenizer.json and SentencePiece: any bytes give a tokenizer whose ids lie in
// its vocabulary, or an Error. The first byte chooses: '{' or white space for JSON, else a model.
#include "text/tokenizer.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/utf8.h"
#include "fuzz/scratch_file.h"
#include "nibble/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const bool is_json = !bytes.empty() && (bytes[0] == '{' || bytes[0] == ' ' || bytes[0] == '\n');
  const nibble::ScratchFile file(is_json ? "tokenizer.json" : "tokenizer.model", bytes);
  try {
    const auto tokenizer = nibble::Tokenizer::LoadFile(file.path());
    for (const char* text : {"", "a", " Hello, world!  ", "naïve 🦊\n", "<s>[INST]</s>"}) {
      const std::vector<int32_t> ids = tokenizer.Encode(text, true);
      for (const int32_t id : ids) NIBBLE_CHECK(id >= 0 && id < tokenizer.vocab_size());
      NIBBLE_CHECK(nibble::IsValidUtf8(tokenizer.Decode(ids, false)));
    }
  } catch (const nibble::Error&) {
  }
  return 0;
}
