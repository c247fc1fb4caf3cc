// Checkpoints are untrusted: any bytes give a header whose tensors cover the file, or an Error.
#include "checkpoint/safetensors.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "nibble/error.h"

namespace {

// Checks the guarantees of a parsed header independently.
void CheckPromises(const nibble::SafetensorsHeader& header, int64_t file_size) {
  int64_t covered = header.data_offset;
  for (const nibble::SafetensorsEntry& entry : header.entries) {
    NIBBLE_CHECK(header.data_offset + entry.begin == covered);
    NIBBLE_CHECK(entry.begin <= entry.end);
    NIBBLE_CHECK(!entry.foreign_type.empty() ||
                 entry.end - entry.begin ==
                     entry.shape.num_elements() * nibble::DTypeSize(entry.dtype));
    covered = header.data_offset + entry.end;
  }
  NIBBLE_CHECK(covered == file_size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Two readings: the bytes as a whole file, and the bytes as the JSON of a header whose length is
  // right, so that the fuzzer need not learn to keep the two in step.
  std::vector<std::byte> framed(size + 8);
  for (size_t i = 0; i < 8; ++i) framed[i] = static_cast<std::byte>((size >> (8 * i)) & 0xff);
  for (size_t i = 0; i < size; ++i) framed[i + 8] = static_cast<std::byte>(data[i]);
  const std::span<const std::byte> plain = std::span(framed).subspan(8);
  for (const std::span<const std::byte> file : {plain, std::span<const std::byte>(framed)}) {
    for (const int64_t more : {0, 24}) {  // data that follows the header, as far as the size goes
      const int64_t file_size = static_cast<int64_t>(file.size()) + more;
      try {
        CheckPromises(nibble::ParseSafetensorsHeader(file, file_size, "x"), file_size);
      } catch (const nibble::Error&) {
        continue;  // an Error is a valid result
      }
    }
  }
  return 0;
}
