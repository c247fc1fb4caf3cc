#include "quantize/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

namespace nibble {
namespace {

// The value named by `word`, or an error naming the option and all its words.
template <typename T>
T Choose(const std::string& field, const std::string& word,
         std::initializer_list<std::pair<const char*, T>> choices) {
  std::string allowed;
  for (const auto& [name, value] : choices) {
    if (word == name) return value;
    allowed += (allowed.empty() ? "" : ", ") + std::string(name);
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("`{}`: \"{}\" is not one of {}", field, word, allowed));
}

}  // namespace

int64_t Recipe::NumGroups(const std::string& module, int64_t cols) const {
  const int64_t group = GroupSize(cols);
  if (cols % group == 0) return cols / group;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}: its {} inputs are not a multiple of the group size {}; choose another "
                  "`group_size` (channel always works), or leave it out: `ignore` {}",
                  module, cols, group, module));
}

Recipe MakeRecipe(const RecipeOptions& options) {
  Recipe recipe;
  recipe.method = Choose<Method>("method", options.method,
                                 {{"gptq", Method::kGptq}, {"rtn", Method::kRoundToNearest}});
  recipe.bits =
      static_cast<int>(Choose<int>("bits", fmt::format("{}", options.bits), {{"4", 4}, {"8", 8}}));
  recipe.group_size = Choose<int64_t>("group_size", options.group_size,
                                      {{"32", 32}, {"64", 64}, {"128", 128}, {"channel", -1}});
  recipe.symmetric = !options.asymmetric;
  recipe.act_order = Choose<ActOrder>("act_order", options.act_order,
                                      {{"none", ActOrder::kNone},
                                       {"static", ActOrder::kStatic},
                                       {"weight", ActOrder::kStatic},
                                       {"group", ActOrder::kGroup}});
  recipe.observer = Choose<Observer>("observer", options.observer,
                                     {{"minmax", Observer::kMinMax},
                                      {"mse", Observer::kMse},
                                      {"imatrix_mse", Observer::kImatrixMse}});
  recipe.dead_columns =
      Choose<DeadColumns>("dead_columns", options.dead_columns,
                          {{"keep", DeadColumns::kKeep}, {"zero", DeadColumns::kZero}});
  if (!(options.dampening > 0 && options.dampening <= 10)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`dampening`: expected a number above 0 and at most 10, found {}",
                            options.dampening));
  }
  recipe.dampening = options.dampening;
  if (options.block_size < 1 || options.block_size > 4096) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("`block_size`: expected 1 to 4096 columns, found {}", options.block_size));
  }
  recipe.block_size = options.block_size;
  recipe.ignore = CompilePatterns(options.ignore);

  if (recipe.method == Method::kRoundToNearest) {
    if (recipe.act_order != ActOrder::kNone) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("`act_order` {}: rounding to nearest has no order of columns; use none, or "
                      "`method` gptq",
                      options.act_order));
    }
    if (recipe.observer == Observer::kImatrixMse) {
      throw Error(ErrorCode::kInvalidArgument,
                  "`observer` imatrix_mse weighs columns by calibration statistics, which `method` "
                  "rtn does not gather; use mse, or `method` gptq");
    }
  }
  return recipe;
}

bool IsTarget(const Recipe& recipe, const std::string& module) {
  return !MatchesAny(recipe.ignore, module);
}

const char* Name(Method method) { return method == Method::kGptq ? "gptq" : "rtn"; }

const char* Name(Observer observer) {
  switch (observer) {
    case Observer::kMinMax:
      return "minmax";
    case Observer::kMse:
      return "mse";
    case Observer::kImatrixMse:
      return "imatrix_mse";
  }
  return "?";
}

const char* Name(ActOrder act_order) {
  switch (act_order) {
    case ActOrder::kNone:
      return "none";
    case ActOrder::kStatic:
      return "static";
    case ActOrder::kGroup:
      return "group";
  }
  return "?";
}

}  // namespace nibble
