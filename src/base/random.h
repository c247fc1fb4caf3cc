#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace nibble {

// NumPy's default_rng(seed): SeedSequence feeding PCG64 (XSL-RR 128/64). Bit-exact.
// Source: spec of numpy.random, reproduced in docs/formats.md#seeded-shuffle.
class NumpyPcg64 {
 public:
  explicit NumpyPcg64(uint64_t seed);

  uint64_t Next64();
  uint32_t Next32();  // one 64-bit draw serves two calls, low half first

  // default_rng(seed).permutation(n), consuming the generator's stream: masked rejection.
  std::vector<int64_t> Permutation(int64_t n);

 private:
  unsigned __int128 state_ = 0;
  unsigned __int128 increment_ = 0;
  uint32_t saved_half_ = 0;
  bool has_saved_half_ = false;
};

// Python's random.Random(seed) for integer seeds. Bit-exact with CPython 3.8 to 3.13.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);

  uint32_t Next32();               // genrand_uint32
  double NextDouble();             // random.random()
  uint64_t NextBelow(uint64_t n);  // random.randrange(n): getrandbits with rejection; n ≥ 1
  uint64_t GetRandBits(int bits);  // random.getrandbits(bits), 1 ≤ bits ≤ 64

 private:
  std::array<uint32_t, 624> state_{};
  int index_ = 624;
};

// A counter-based generator (Philox 4x32-10): the value depends only on (key, counter), so a draw
// can be repeated for any token of any request without the state of a stream.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter);

}  // namespace nibble
