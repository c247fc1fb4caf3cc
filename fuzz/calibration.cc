// Calibration rows in every format: any bytes give sequences of known ids, or an Error. The first
// byte chooses the format and is not part of the file.
#include "data/calibration.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/log.h"
#include "fuzz/scratch_file.h"
#include "nibble/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizer = nibble::Tokenizer::Load("demo/tinymix");
  static const nibble::ChatTemplate chat("{% for m in messages %}{{ m.content }}{% endfor %}", "",
                                         "");
  constexpr std::array kNames = {"r.jsonl",     "r.json",    "r.csv",   "r.jsonl.gz",
                                 "r.jsonl.zst", "r.parquet", "c.jsonl", "c.parquet",
                                 "r.tsv",       "r.txt",     "r"};
  nibble::SetLogLevel(nibble::LogLevel::kOff);  // rows without a text are counted in a warning
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const char* name = kNames[static_cast<size_t>(data[0]) % kNames.size()];
  const nibble::ScratchFile file(name, bytes.substr(1));
  nibble::CalibrationOptions options;
  options.path = file.path();
  options.samples = 2;
  options.max_seq_len = 64;
  options.chat = name[0] == 'c';
  try {
    const auto set = nibble::LoadCalibration(options, tokenizer, &chat, tokenizer.vocab_size());
    NIBBLE_CHECK(set.sequences.size() == 2 && set.rows.size() == 2);
    for (const auto& ids : set.sequences) NIBBLE_CHECK(!ids.empty() && ids.size() <= 64);
  } catch (const nibble::Error&) {
  }
  return 0;
}
