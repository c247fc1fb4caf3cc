#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace nibble {

// One tensor of a safetensors file: where it lies, counted from the start of the data buffer.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t begin = 0;
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in file order of their data
  std::map<std::string, std::string> metadata;
  int64_t data_offset = 0;  // of the data buffer in the file
};

// Reads the header at the start of `file` (the whole file, or at least its header; `file_size` is the
// true size). Any bytes give a header or Error(kInvalidData) naming `where` and the tensor: lengths,
// overlaps, holes, duplicates, dtype, shape overflow and file size are all checked.
SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, int64_t file_size,
                                         const std::string& where);

// Writes one file atomically. Tensors are laid out by descending alignment, then name; the header is
// padded to 8 bytes, with metadata {"format": "pt"}. Views must live through the call.
void WriteSafetensors(const std::filesystem::path& path,
                      const std::vector<std::pair<std::string, TensorView>>& tensors);

}  // namespace nibble
