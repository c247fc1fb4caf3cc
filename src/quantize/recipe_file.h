#pragma once

#include <string>
#include <string_view>

#include "nibble/quantize.h"
#include "quantize/recipe.h"

namespace nibble {

// Reads a recipe of llm-compressor: stages of modifiers, of which exactly one is a GPTQModifier or
// a QuantizationModifier that quantizes the weights of Linears by one scheme. What is absent has
// llm-compressor's default (damping 0.01), except the order of columns: none, as in the version of
// the model card. Anything nibble does not do is refused by name and place.
//
// Safe on hostile input: size, depth and number of nodes are bounded, aliases are refused.
// Throws kInvalidData (not YAML, wrong type) or kUnsupported; `where` names the file.
RecipeOptions ParseRecipe(std::string_view yaml, const std::string& where);

// The text of recipe.yaml in the output: the recipe as llm-compressor would record it.
std::string RecipeToYaml(const Recipe& recipe);

}  // namespace nibble
