#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

// Source: docs/formats.md#safetensors.
namespace nibble {

// One tensor of a safetensors file: where it lies, counted from the start of the data buffer.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;  // kU8 if it has a foreign type
  Shape shape;
  int64_t begin = 0;
  int64_t end = 0;
  // The name of an element type that is none of DType; else empty. Such tensors may lie beside the
  // ones that are needed: their place is known, what their bytes mean is not.
  std::string foreign_type = {};

  std::string_view type_name() const {
    return foreign_type.empty() ? DTypeName(dtype) : std::string_view(foreign_type);
  }
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in file order of their data
  std::map<std::string, std::string> metadata;
  int64_t data_offset = 0;  // of the data buffer in the file
};

// Reads the header at the start of `file` (the whole file, or at least its header; `file_size` is
// the true size). Any bytes give a header, or Error naming `where` and the tensor: kInvalidData for
// lengths, overlaps, holes, duplicates, shape overflow and file size. Time is n log n and memory a
// small multiple of the header, itself at most 100 MB. Data may be misaligned for its type: files
// older than 2023 did not pad the header.
SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, int64_t file_size,
                                         const std::string& where);

// Decides where tensors lie in a file to be written: sorts `entries` by descending element size,
// then name, so that each is aligned, and sets begin and end. Returns the first bytes of the file
// (length, JSON, padding to 8), with metadata {"format": "pt"}. Throws kInvalidArgument for a name
// given twice.
std::string LayOutSafetensors(std::vector<SafetensorsEntry>& entries);

// Writes one file atomically in that layout. Views must live through the call.
void WriteSafetensors(const std::filesystem::path& path,
                      const std::vector<std::pair<std::string, TensorView>>& tensors);

}  // namespace nibble
