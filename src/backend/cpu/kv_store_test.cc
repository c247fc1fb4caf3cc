#include "backend/cpu/kv_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/float16.h"
#include "tests/support/testing_layer.h"

namespace nibble::cpu {
namespace {

using testing::RandomValues;

struct Pages {
  std::vector<std::byte> bytes;
  HostKvLayer kv;

  Pages(DType dtype, int64_t block_size, int64_t num_kv_heads, int64_t head_dim) {
    kv = {.dtype = dtype,
          .num_blocks = 2,
          .block_size = block_size,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim};
    bytes.assign(kv.num_blocks * kv.bytes_per_block(), std::byte{0xa5});
    kv.data = bytes.data();
  }

  template <typename T>
  T At(int64_t offset) const {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
  }
  float Value(int64_t block, bool key, int64_t head, int64_t slot, int64_t d) const {
    const int64_t part =
        block * kv.bytes_per_block() + (key ? kv.key_part(head) : kv.value_part(head));
    const int64_t at = part + (key ? kv.key_offset(slot, d) : kv.value_offset(slot, d));
    switch (kv.dtype) {
      case DType::kF32:
        return At<float>(at);
      case DType::kBF16:
        return static_cast<float>(At<BFloat16>(at));
      default:
        return static_cast<float>(At<uint8_t>(at) - 128) * At<float>(part + kv.scale_offset(slot));
    }
  }
};

TEST(KvStore, EveryTokenHasItsOwnPlaceAndKeepsItsValues) {
  const int64_t heads = 3;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const int64_t block_size : {1, 5, 16}) {
      for (const int64_t head_dim : {6, 16, 34}) {
        SCOPED_TRACE(std::string(DTypeName(dtype)) + " " + std::to_string(block_size) + " " +
                     std::to_string(head_dim));
        Pages pages(dtype, block_size, heads, head_dim);
        const auto keys = [&](int64_t token) {
          return RandomValues(heads * head_dim, static_cast<uint64_t>(token));
        };
        const auto values = [&](int64_t token) {
          return RandomValues(heads * head_dim, static_cast<uint64_t>(token) + 1000);
        };
        for (int64_t token = 2 * block_size - 1; token >= 0; --token) {
          StoreKeyValue(pages.kv, token / block_size, token % block_size, keys(token).data(),
                        values(token).data());
        }
        // Of values below 1: half a unit of the last place, or of a code.
        const float error = dtype == DType::kF32    ? 0.0f
                            : dtype == DType::kBF16 ? 0x1p-9f
                                                    : 0.501f / 127.0f;
        for (int64_t token = 0; token < 2 * block_size; ++token) {
          for (const bool key : {true, false}) {
            const std::vector<float> expected = key ? keys(token) : values(token);
            for (int64_t i = 0; i < heads * head_dim; ++i) {
              ASSERT_NEAR(pages.Value(token / block_size, key, i / head_dim, token % block_size,
                                      i % head_dim),
                          expected[i], error)
                  << token << " " << key << " " << i;
            }
          }
        }
      }
    }
  }
}

TEST(KvStore, CodesRoundToNearestAndTheLargestIsExact) {
  Pages pages(DType::kI8, 4, 1, 6);
  // The scale is 2: codes 127, -127, 1, 0 (a tie goes to even), 2 (likewise), 0.
  const std::vector<float> k = {254, -254, 2.9f, 1, 3, -0.9f};
  const std::vector<float> v = {0, 0, 0, 0, 0, 0};
  StoreKeyValue(pages.kv, 0, 2, k.data(), v.data());
  const float expected[] = {254, -254, 2, 0, 4, 0};
  for (int64_t d = 0; d < 6; ++d) {
    EXPECT_EQ(pages.Value(0, true, 0, 2, d), expected[d]) << d;
    EXPECT_EQ(pages.Value(0, false, 0, 2, d), 0.0f) << d;
  }
}

TEST(KvStore, WhatIsNotFiniteStaysVisible) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    Pages pages(DType::kI8, 4, 1, 2);
    const std::vector<float> k = {1, 2};
    const std::vector<float> v = {1, bad};
    StoreKeyValue(pages.kv, 1, 0, k.data(), v.data());
    EXPECT_EQ(pages.Value(1, true, 0, 0, 1), 2.0f);
    EXPECT_TRUE(std::isnan(pages.Value(1, false, 0, 0, 0)));
    EXPECT_TRUE(std::isnan(pages.Value(1, false, 0, 0, 1)));
  }
}

}  // namespace
}  // namespace nibble::cpu
