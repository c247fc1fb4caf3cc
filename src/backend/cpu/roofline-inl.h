#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

// Loops that do one thing as fast as the machine can: the roofs that kernels are measured against.
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

// Independent sums enough to hide the latency: twelve in flight.
template <typename Isa>
float MultiplyAdd(int64_t rounds) {
  typename Isa::F sums[Isa::kRoofSums];
  for (int j = 0; j < Isa::kRoofSums; ++j) sums[j] = Isa::Set(static_cast<float>(j));
  const auto a = Isa::Set(0.999f);
  const auto b = Isa::Set(0.001f);
  for (int64_t i = 0; i < rounds; ++i) {
    NIBBLE_UNROLL
    for (int j = 0; j < Isa::kRoofSums; ++j) sums[j] = Isa::Fma(sums[j], a, b);
  }
  float total = 0;
  for (const auto& sum : sums) total += Isa::Sum(sum);
  return total;
}

template <typename Isa>
int32_t DotBytes(int64_t rounds) {
  alignas(64) uint8_t codes[128];
  for (int i = 0; i < 128; ++i) codes[i] = static_cast<uint8_t>(i % 16);
  const int8_t x[8] = {1, -2, 3, -4, 5, -6, 7, -8};
  const auto first = Isa::LoadB(codes);
  const auto second = Isa::LoadB(codes + 64);
  typename Isa::I sums[Isa::kRoofSums];
  for (auto& sum : sums) sum = Isa::ZeroI();
  for (int64_t i = 0; i < rounds; ++i) {
    NIBBLE_UNROLL
    for (int j = 0; j < Isa::kRoofSums; ++j) sums[j] = Isa::DotPair(sums[j], first, second, x);
  }
  int32_t total = 0;
  for (const auto& sum : sums) total ^= Isa::SumI(sum);
  return total;
}

}  // namespace nibble::cpu
