// Recipes are untrusted: any bytes give options or an Error.
#include "quantize/recipe.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nibble/error.h"
#include "quantize/recipe_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const nibble::RecipeOptions options = nibble::ParseRecipe(
        std::string_view(reinterpret_cast<const char*>(data), size), "recipe.yaml");
    nibble::MakeRecipe(options);
  } catch (const nibble::Error&) {
  }
  return 0;
}
