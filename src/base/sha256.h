#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace nibble {

// SHA-256 of bytes that come in pieces.
class Sha256Hasher {
 public:
  Sha256Hasher();
  ~Sha256Hasher();
  Sha256Hasher(Sha256Hasher&&) noexcept;
  Sha256Hasher& operator=(Sha256Hasher&&) noexcept;

  void Add(std::span<const std::byte> bytes);
  std::string Finish();  // lower-case hexadecimal; the hasher is done afterwards

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Lower-case hexadecimal SHA-256.
std::string Sha256(std::span<const std::byte> bytes);
std::string Sha256File(const std::filesystem::path& path);  // throws kNotFound, kIo, kInterrupted

}  // namespace nibble
