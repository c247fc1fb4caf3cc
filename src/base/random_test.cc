#include "base/random.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <string>

#include "base/sha256.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

using Indices = std::vector<int64_t>;

Indices Permutation(uint64_t seed, int64_t n) { return NumpyPcg64(seed).Permutation(n); }

std::string DigestOf(std::span<const int64_t> values) { return Sha256(std::as_bytes(values)); }

// NumPy's own values, docs/formats.md#seeded-shuffle.
TEST(NumpyPcg64, DrawsTheWordsOfSeed42) {
  NumpyPcg64 random(42);
  EXPECT_EQ(random.Next64(), 0xc621fbcd16d92688u);
  EXPECT_EQ(random.Next64(), 0x705a5661a791ffc1u);
  EXPECT_EQ(random.Next64(), 0xdbcd12c26eda1624u);
  EXPECT_EQ(random.Next64(), 0xb286b60e1600888du);
}

TEST(NumpyPcg64, ServesTwoHalvesLowFirst) {
  NumpyPcg64 random(42);
  EXPECT_EQ(random.Next32(), 0x16d92688u);
  EXPECT_EQ(random.Next32(), 0xc621fbcdu);
  EXPECT_EQ(random.Next64(), 0x705a5661a791ffc1u);
}

TEST(NumpyPcg64, PermutesTenAsNumpyDoes) {
  EXPECT_THAT(Permutation(42, 10), ElementsAre(5, 6, 0, 7, 3, 2, 4, 9, 1, 8));
  EXPECT_THAT(Permutation(0, 10), ElementsAre(4, 6, 2, 7, 3, 5, 9, 0, 8, 1));
  EXPECT_THAT(Permutation(1, 10), ElementsAre(8, 4, 7, 0, 1, 2, 5, 9, 6, 3));
  EXPECT_THAT(Permutation((uint64_t{1} << 40) + 7, 10), ElementsAre(6, 2, 8, 7, 9, 3, 4, 1, 5, 0));
}

TEST(NumpyPcg64, PermutesNothingAndOne) {
  EXPECT_TRUE(Permutation(42, 0).empty());
  EXPECT_THAT(Permutation(42, 1), ElementsAre(0));
}

TEST(NumpyPcg64, ShufflesTheRowsOfTheCalibrationSet) {
  const Indices rows = Permutation(42, 24926);
  const std::span<const int64_t> all(rows);
  EXPECT_THAT(all.first(20),
              ElementsAre(20646, 9793, 13564, 18075, 23826, 6634, 24054, 20989, 23652, 11602, 18156,
                          2856, 1765, 4612, 4575, 21004, 17141, 5708, 19186, 20982));
  EXPECT_THAT(all.subspan(1014, 10),
              ElementsAre(2099, 4790, 21656, 6396, 10287, 9274, 17670, 12103, 13938, 15048));
  EXPECT_THAT(all.last(5), ElementsAre(2189, 4802, 5668, 22113, 9864));
  EXPECT_EQ(std::accumulate(rows.begin(), rows.begin() + 256, int64_t{0}), 3047224);
  EXPECT_EQ(std::accumulate(rows.begin(), rows.begin() + 1024, int64_t{0}), 12550942);
  EXPECT_EQ(DigestOf(all.first(1024)),
            "43bc435e843c9689ba813e18a0da4eec57b53ec860db63cf1fcc7caa46b83416");
  EXPECT_EQ(DigestOf(all), "d6810133b085b1265ff41eb8985b98839a8424fe6d7553807570d620f3c19bef");
}

// CPython's own values, the same on 3.8 to 3.13.
TEST(PythonRandom, DrawsTheWordsOfItsSeeds) {
  const struct {
    uint64_t seed;
    std::vector<uint32_t> words;
  } cases[] = {
      {0, {3626764237, 1654615998, 3255389356, 3823568514}},
      {1, {577090037, 2444712010, 3639700191, 3445702192}},
      {5, {2675342405, 1097127993, 3185950873, 1539898300}},
      {42, {2746317213, 478163327, 107420369, 3184935163}},
      {1234, {4150886329, 3342196574, 1892932127, 501869158, 32175636, 389311301}},
      {uint64_t{1} << 32, {485306839, 1508871100, 1794561286, 4014597330}},
      {(uint64_t{1} << 40) + 7, {2635837658, 3209733218, 3500038837, 4028389051}},
  };
  for (const auto& [seed, words] : cases) {
    PythonRandom random(seed);
    for (const uint32_t word : words) EXPECT_EQ(random.GetRandBits(32), word) << "seed " << seed;
  }
}

TEST(PythonRandom, DrawsDoublesOf53Bits) {
  PythonRandom random(1234);
  EXPECT_EQ(random.NextDouble(), 0.9664535356921388);
  EXPECT_EQ(random.NextDouble(), 0.4407325991753527);
  EXPECT_EQ(random.NextDouble(), 0.007491470058587191);
}

TEST(PythonRandom, FillsWideDrawsFromTheLowWordUp) {
  PythonRandom words(1234);
  PythonRandom wide(1234);
  const uint64_t first = words.Next32();
  const uint64_t second = words.Next32();
  EXPECT_EQ(wide.GetRandBits(40), first | ((second >> 24) << 32));
  EXPECT_EQ(wide.GetRandBits(5), words.Next32() >> 27);
}

TEST(PythonRandom, ShufflesAsPythonDoes) {
  PythonRandom random(3);
  Indices values(10);
  std::iota(values.begin(), values.end(), 0);
  for (size_t i = 9; i >= 1; --i) std::swap(values[i], values[random.NextBelow(i + 1)]);
  EXPECT_THAT(values, ElementsAre(1, 5, 6, 0, 9, 4, 7, 2, 8, 3));
}

// random.sample(range(n), k), plainly.
std::vector<uint64_t> Sample(PythonRandom& random, uint64_t n, uint64_t k) {
  uint64_t set_size = 21;
  if (k > 5) {
    uint64_t power = 1;
    while (power < 3 * k) power *= 4;
    set_size += power;
  }
  std::vector<uint64_t> result;
  if (n <= set_size) {
    std::vector<uint64_t> pool(n);
    std::iota(pool.begin(), pool.end(), 0);
    for (uint64_t i = 0; i < k; ++i) {
      const uint64_t j = random.NextBelow(n - i);
      result.push_back(pool[j]);
      pool[j] = pool[n - i - 1];
    }
    return result;
  }
  std::set<uint64_t> chosen;
  while (result.size() < k) {
    const uint64_t j = random.NextBelow(n);
    if (chosen.insert(j).second) result.push_back(j);
  }
  return result;
}

TEST(PythonRandom, SamplesSmallPoolsAsPythonDoes) {
  PythonRandom random(1234);
  EXPECT_THAT(Sample(random, 20, 6), ElementsAre(14, 3, 0, 2, 1, 10));
  EXPECT_THAT(Sample(random, 20, 6), ElementsAre(2, 3, 11, 7, 0, 15));
  PythonRandom other(1234);
  EXPECT_THAT(Sample(other, 30, 5), ElementsAre(24, 14, 3, 0, 2));
  EXPECT_THAT(Sample(other, 30, 5), ElementsAre(29, 25, 18, 1, 21));
}

// Thousands of draws in a row: the few-shot streams of four evaluation sets.
TEST(PythonRandom, ReproducesWholeStreamsOfSamples) {
  const struct {
    uint64_t n, k;
    int documents;
    const char* digest;
  } cases[] = {
      {299, 25, 1172, "b533c4ab90f0d434a3378da3691474376bc46927cebcdddfe07ba7b9a263a163"},
      {1119, 25, 1172, "35721fc9a947d707f8dae6154f85a1984685e117c08baea948955378b01e24e2"},
      {40398, 5, 1267, "06f7f2d16d0a3d33581525c452dfcb53d0f0824e8427b8d2875b986168b99825"},
      {7473, 5, 1319, "fc8d6614b0b617334d02f8f4c4de3c7895c639f63917c60ff2a052ab4a70033a"},
  };
  for (const auto& [n, k, documents, digest] : cases) {
    PythonRandom random(1234);
    std::string lines;
    for (int document = 0; document < documents; ++document) {
      lines += fmt::format("{}\n", fmt::join(Sample(random, n, k), ","));
    }
    EXPECT_EQ(Sha256(std::as_bytes(std::span(lines))), digest) << n;
  }
}

// The known answers published with the generator.
TEST(Philox4x32, GivesTheKnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0}, {0, 0, 0, 0}),
              ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  constexpr uint32_t kOnes = 0xffffffffu;
  EXPECT_THAT(Philox4x32({kOnes, kOnes}, {kOnes, kOnes, kOnes, kOnes}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(
      Philox4x32({0xa4093822u, 0x299f31d0u}, {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}),
      ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

}  // namespace
}  // namespace nibble
