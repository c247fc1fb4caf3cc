#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/module_pattern.h"
#include "checkpoint/quant_config.h"
#include "nibble/quantize.h"

namespace nibble {

enum class Method { kGptq, kRoundToNearest };
enum class Observer { kMinMax, kMse, kImatrixMse };
enum class DeadColumns { kKeep, kZero };

// How Linears become integers: checked and typed. Defaults are the recipe of the published 8x22B
// card.
struct Recipe {
  Method method = Method::kGptq;
  int bits = 4;
  int64_t group_size = 128;  // weights of a row that share a scale; -1: the whole row
  bool symmetric = true;
  ActOrder act_order = ActOrder::kNone;
  Observer observer = Observer::kMinMax;
  double dampening = 0.1;  // fraction of the mean diagonal of H added to its diagonal
  int64_t block_size = 128;
  DeadColumns dead_columns = DeadColumns::kKeep;  // inputs that were zero for all tokens
  std::vector<ModulePattern> ignore = CompilePatterns(RecipeOptions().ignore);

  int min_code() const { return -(1 << (bits - 1)); }
  int max_code() const { return (1 << (bits - 1)) - 1; }
  int64_t GroupSize(int64_t cols) const { return group_size < 0 ? cols : group_size; }
  // Groups of a row of Linear `module`. Throws kUnsupported naming it if they do not come out even.
  int64_t NumGroups(const std::string& module, int64_t cols) const;
};

// Checks the options, which are words, and converts them. Throws kInvalidArgument naming the
// option, the value and the values allowed, and for patterns as ModulePattern does.
Recipe MakeRecipe(const RecipeOptions& options);

// True if Linear `module` is to be quantized: "Linear" is a target and nothing in `ignore` matches.
bool IsTarget(const Recipe& recipe, const std::string& module);

const char* Name(Method method);
const char* Name(Observer observer);
const char* Name(ActOrder act_order);

}  // namespace nibble
