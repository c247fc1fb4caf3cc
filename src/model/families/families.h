#pragma once

#include "model/family.h"

// A family is one value, in a file of its own.
namespace nibble::families {

const Family& Mixtral();

}  // namespace nibble::families
