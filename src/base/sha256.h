#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace nibble {

// Lower-case hexadecimal SHA-256.
std::string Sha256(std::span<const std::byte> bytes);
std::string Sha256File(const std::filesystem::path& path);

}  // namespace nibble
