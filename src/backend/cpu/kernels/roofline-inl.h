#pragma once

#include "backend/cpu/kernels/simd.h"
#include "backend/cpu/kernels/table.h"

// Microbenchmarks of peak throughput: the rooflines that kernels are measured against.
namespace nibble::cpu {

template <typename Isa>
uint64_t ReadMemory(const void* data, int64_t bytes) {
  const uint8_t* const p = static_cast<const uint8_t*>(data);
  typename Isa::I sums[8];
  for (auto& sum : sums) sum = Isa::ZeroI();
  for (int64_t i = 0; i + 512 <= bytes; i += 512) {
    NIBBLE_UNROLL
    for (int j = 0; j < 8; ++j) sums[j] = Isa::AddI(sums[j], Isa::LoadInts(p + i + 64 * j));
  }
  int32_t total = 0;
  for (const auto& sum : sums) total ^= Isa::SumI(sum);
  return static_cast<uint64_t>(static_cast<uint32_t>(total));
}

// Enough independent sums to hide the latency.
template <typename Isa>
float MultiplyAdd(int64_t rounds) {
  // All lanes differ: a compiler may compute equal halves of a vector only once.
  float start[16 * Isa::kRoofFloatSums];
  for (int i = 0; i < 16 * Isa::kRoofFloatSums; ++i) start[i] = static_cast<float>(i);
  typename Isa::F sums[Isa::kRoofFloatSums];
  for (int j = 0; j < Isa::kRoofFloatSums; ++j) sums[j] = Isa::Load(start + 16 * j);
  const auto a = Isa::Set(0.999f);
  const auto b = Isa::Set(0.001f);
  for (int64_t i = 0; i < rounds; ++i) {
    NIBBLE_UNROLL
    for (int j = 0; j < Isa::kRoofFloatSums; ++j) sums[j] = Isa::Fma(sums[j], a, b);
  }
  float total = 0;
  for (const auto& sum : sums) total += Isa::Sum(sum);
  return total;
}

// Codes and activations come from the first-level cache and are used a few times each, as in the
// kernels.
template <typename Isa>
int32_t DotBytes(int64_t rounds) {
  constexpr int64_t kCodes = 2048;
  alignas(64) uint8_t codes[kCodes + 512];
  for (int64_t i = 0; i < kCodes + 512; ++i) codes[i] = static_cast<uint8_t>(i % 16);
  int8_t x[8 * Isa::kRoofIntSums];
  for (int j = 0; j < 8 * Isa::kRoofIntSums; ++j) x[j] = static_cast<int8_t>(j - 30);
  typename Isa::I sums[Isa::kRoofIntSums];
  for (auto& sum : sums) sum = Isa::ZeroI();
  for (int64_t i = 0; i < rounds; ++i) {
    const uint8_t* const w = codes + i * 128 % kCodes;
    NIBBLE_UNROLL
    for (int j = 0; j < Isa::kRoofIntSums; ++j) {
      const uint8_t* const both = w + j % 4 * 128;
      sums[j] = Isa::DotPair(sums[j], Isa::LoadB(both), Isa::LoadB(both + 64), x + 8 * (j / 4));
    }
  }
  int32_t total = 0;
  for (const auto& sum : sums) total ^= Isa::SumI(sum);
  return total;
}

}  // namespace nibble::cpu
