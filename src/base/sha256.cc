#include "base/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/interrupt.h"
#include "nibble/error.h"

namespace nibble {

struct Sha256Hasher::State {
  State() : context(EVP_MD_CTX_new()) {
    if (context == nullptr || EVP_DigestInit_ex(context, EVP_sha256(), nullptr) != 1) {
      EVP_MD_CTX_free(context);
      throw Error(ErrorCode::kInternal, "libcrypto offers no SHA-256");
    }
  }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  EVP_MD_CTX* context;
};

Sha256Hasher::Sha256Hasher() : state_(std::make_unique<State>()) {}
Sha256Hasher::~Sha256Hasher() = default;
Sha256Hasher::Sha256Hasher(Sha256Hasher&&) noexcept = default;
Sha256Hasher& Sha256Hasher::operator=(Sha256Hasher&&) noexcept = default;

void Sha256Hasher::Add(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Sha256Hasher::Finish() {
  std::array<unsigned char, 32> digest{};
  EVP_DigestFinal_ex(state_->context, digest.data(), nullptr);
  std::string text;
  for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string Sha256(std::span<const std::byte> bytes) {
  Sha256Hasher hasher;
  hasher.Add(bytes);
  return hasher.Finish();
}

std::string Sha256File(const std::filesystem::path& path,
                       const std::function<void(int64_t bytes)>& hashed) {
  // Pages are dropped after each piece, so that hashing a 70 GB file keeps 4 MiB resident.
  constexpr size_t kPiece = size_t{4} << 20;
  const MappedFile file(path);
  Sha256Hasher hasher;
  for (size_t at = 0; at < file.bytes().size(); at += kPiece) {
    ThrowIfInterrupted();
    const auto piece = file.bytes().subspan(at, std::min(kPiece, file.bytes().size() - at));
    hasher.Add(piece);
    file.DontNeed(piece);
    hashed(static_cast<int64_t>(piece.size()));
  }
  return hasher.Finish();
}

}  // namespace nibble
