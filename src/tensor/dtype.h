#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace nibble {

// Element types as safetensors names them. kF8E4M3 and the unsigned types can be copied, but not
// converted or computed with.
enum class DType {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64
};

int64_t DTypeSize(DType dtype);                          // bytes per element
bool IsFloat(DType dtype);                               // BF16, F16 or F32: computed with
std::string_view DTypeName(DType dtype);                 // "BF16"
std::optional<DType> ParseDType(std::string_view name);  // nullopt for names we do not know

}  // namespace nibble
