#include "model/family.h"

#include <fmt/format.h>

#include <array>

#include "base/utf8.h"
#include "model/families/families.h"
#include "nibble/error.h"

namespace nibble {

const Family& FindFamily(const ModelConfig& config) {
  static const std::array<const Family*, 1> kFamilies = {&families::Mixtral()};
  std::string known;
  for (const Family* family : kFamilies) {
    if (family->model_type == config.model_type) return *family;
    known += (known.empty() ? "" : ", ") + std::string(family->model_type);
  }
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: model_type: nibble runs {}, found {}",
                                                   config.where, known, Quoted(config.model_type)));
}

ModelSpec SpecOf(const ModelConfig& config) { return FindFamily(config).read(config); }

}  // namespace nibble
