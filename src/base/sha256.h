#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace nibble {

// Incremental SHA-256.
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

// Of a file, read in pieces; calls `hashed` with the bytes of each. Throws kNotFound, kIo,
// kInterrupted.
std::string Sha256File(
    const std::filesystem::path& path,
    const std::function<void(int64_t bytes)>& hashed = [](int64_t) {});

}  // namespace nibble
