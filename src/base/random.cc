#include "base/random.h"

#include <bit>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace nibble {
namespace {

using uint128 = unsigned __int128;

constexpr uint128 kPcgMultiplier =
    (static_cast<uint128>(2549297995355413924ull) << 64) | 4865540595714422341ull;

// numpy.random.SeedSequence for one non-negative integer below 2^64: a pool of four words, stirred.
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t seed) {
    const std::array<uint32_t, 4> entropy = {static_cast<uint32_t>(seed),
                                             static_cast<uint32_t>(seed >> 32), 0, 0};
    uint32_t constant = 0x43b0d7e5u;
    const auto hash = [&constant](uint32_t value) {
      value ^= constant;
      constant *= 0x931e8875u;
      value *= constant;
      return value ^ (value >> 16);
    };
    for (size_t i = 0; i < 4; ++i) pool_[i] = hash(entropy[i]);
    for (size_t source = 0; source < 4; ++source) {
      for (size_t target = 0; target < 4; ++target) {
        if (source != target) pool_[target] = Mix(pool_[target], hash(pool_[source]));
      }
    }
  }

  // generate_state(4, uint64)
  std::array<uint64_t, 4> Generate() const {
    std::array<uint32_t, 8> words{};
    uint32_t constant = 0x8b51f9ddu;
    for (size_t i = 0; i < words.size(); ++i) {
      uint32_t value = pool_[i % 4] ^ constant;
      constant *= 0x58f38dedu;
      value *= constant;
      words[i] = value ^ (value >> 16);
    }
    std::array<uint64_t, 4> state{};
    for (size_t i = 0; i < state.size(); ++i) {
      state[i] = words[2 * i] | (static_cast<uint64_t>(words[2 * i + 1]) << 32);
    }
    return state;
  }

 private:
  static uint32_t Mix(uint32_t x, uint32_t y) {
    const uint32_t mixed = 0xca01f9ddu * x - 0x4973f715u * y;
    return mixed ^ (mixed >> 16);
  }

  std::array<uint32_t, 4> pool_{};
};

}  // namespace

NumpyPcg64::NumpyPcg64(uint64_t seed) {
  const std::array<uint64_t, 4> words = SeedSequence(seed).Generate();
  const uint128 start = (static_cast<uint128>(words[0]) << 64) | words[1];
  const uint128 sequence = (static_cast<uint128>(words[2]) << 64) | words[3];
  increment_ = (sequence << 1) | 1;
  state_ = increment_ + start;  // one step from zero, then the start added
  state_ = state_ * kPcgMultiplier + increment_;
}

uint64_t NumpyPcg64::Next64() {
  state_ = state_ * kPcgMultiplier + increment_;
  const auto folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  return std::rotr(folded, static_cast<int>(state_ >> 122));
}

uint32_t NumpyPcg64::Next32() {
  if (has_saved_half_) {
    has_saved_half_ = false;
    return saved_half_;
  }
  const uint64_t draw = Next64();
  saved_half_ = static_cast<uint32_t>(draw >> 32);
  has_saved_half_ = true;
  return static_cast<uint32_t>(draw);
}

std::vector<int64_t> NumpyPcg64::Permutation(int64_t n) {
  NIBBLE_CHECK(n >= 0);
  std::vector<int64_t> values(n);
  std::iota(values.begin(), values.end(), 0);
  for (auto i = static_cast<uint64_t>(n); i-- > 1;) {
    const uint64_t mask = ~uint64_t{0} >> std::countl_zero(i);  // smallest 2^k - 1 that covers i
    uint64_t j = 0;
    do {
      j = (i <= 0xffffffffu ? Next32() : Next64()) & mask;
    } while (j > i);
    std::swap(values[i], values[j]);
  }
  return values;
}

PythonRandom::PythonRandom(uint64_t seed) {
  std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const uint32_t key_length = key[1] != 0 ? 2 : 1;
  constexpr uint32_t kSize = 624;

  state_[0] = 19650218u;
  for (uint32_t i = 1; i < kSize; ++i) {
    state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }
  uint32_t i = 1;
  const auto advance = [&] {
    if (++i >= kSize) {
      state_[0] = state_[kSize - 1];
      i = 1;
    }
  };
  for (uint32_t step = 0; step < kSize; ++step) {
    const uint32_t j = step % key_length;
    const uint32_t previous = state_[i - 1];
    state_[i] = (state_[i] ^ ((previous ^ (previous >> 30)) * 1664525u)) + key[j] + j;
    advance();
  }
  for (uint32_t step = 0; step < kSize - 1; ++step) {
    const uint32_t previous = state_[i - 1];
    state_[i] = (state_[i] ^ ((previous ^ (previous >> 30)) * 1566083941u)) - i;
    advance();
  }
  state_[0] = 0x80000000u;
}

uint32_t PythonRandom::Next32() {
  constexpr size_t kSize = 624;
  constexpr size_t kShift = 397;
  if (index_ >= static_cast<int>(kSize)) {
    for (size_t i = 0; i < kSize; ++i) {
      const uint32_t joined = (state_[i] & 0x80000000u) | (state_[(i + 1) % kSize] & 0x7fffffffu);
      state_[i] = state_[(i + kShift) % kSize] ^ (joined >> 1) ^ ((joined & 1u) * 0x9908b0dfu);
    }
    index_ = 0;
  }
  uint32_t word = state_[index_++];
  word ^= word >> 11;
  word ^= (word << 7) & 0x9d2c5680u;
  word ^= (word << 15) & 0xefc60000u;
  return word ^ (word >> 18);
}

double PythonRandom::NextDouble() {
  const uint32_t high = Next32() >> 5;
  const uint32_t low = Next32() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

uint64_t PythonRandom::GetRandBits(int bits) {
  NIBBLE_CHECK(bits >= 1 && bits <= 64);
  if (bits <= 32) return Next32() >> (32 - bits);
  const uint64_t low = Next32();
  const uint64_t high = Next32() >> (64 - bits);
  return low | (high << 32);
}

uint64_t PythonRandom::NextBelow(uint64_t n) {
  NIBBLE_CHECK(n >= 1);
  const int bits = 64 - std::countl_zero(n);
  uint64_t draw = GetRandBits(bits);
  while (draw >= n) draw = GetRandBits(bits);
  return draw;
}

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = 0xd2511f53ull * counter[0];
    const uint64_t second = 0xcd9e8d57ull * counter[2];
    counter = {
        static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
        static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  return counter;
}

}  // namespace nibble
