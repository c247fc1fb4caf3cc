#include "base/sha256.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "nibble/error.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

std::string OfText(std::string_view text) { return Sha256(std::as_bytes(std::span(text))); }

// FIPS 180-4 examples.
TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(OfText(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(OfText("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(OfText(std::string(size_t{1'000'000}, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Hasher, DoesNotSeeHowTheBytesWereCut) {
  const std::string text = "the quick brown fox";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Sha256Hasher hasher;
    hasher.Add(std::as_bytes(std::span(text).first(cut)));
    hasher.Add(std::as_bytes(std::span(text).subspan(cut)));
    EXPECT_EQ(hasher.Finish(), OfText(text));
  }
}

TEST(Sha256File, EqualsTheDigestOfItsBytes) {
  const testing::TemporaryDirectory directory;
  std::string text;  // more than two pieces, not a whole number of them
  text.resize(9'000'001, 'q');
  WriteTextFile(directory.path() / "f", text);
  int64_t hashed = 0;
  const std::string digest =
      Sha256File(directory.path() / "f", [&](int64_t bytes) { hashed += bytes; });
  EXPECT_EQ(digest, OfText(text));
  EXPECT_EQ(hashed, static_cast<int64_t>(text.size()));
  WriteTextFile(directory.path() / "empty", "");
  EXPECT_EQ(Sha256File(directory.path() / "empty"), OfText(""));
  EXPECT_THROW(Sha256File(directory.path() / "absent"), Error);
}

}  // namespace
}  // namespace nibble
