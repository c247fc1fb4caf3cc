#include "backend/cuda/w4/w4_pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

#include "nibble/error.h"

namespace nibble::cuda {
namespace {

using ::testing::HasSubstr;

// A packed weight, and the random codes and scales it was packed from.
struct Source {
  std::vector<int8_t> codes;     // [rows, cols]
  std::vector<uint16_t> scales;  // [rows, cols / group_size]
  PackedTensor packed;
};

Source RandomSource(int64_t rows, int64_t cols, uint64_t seed, int64_t group_size = 128) {
  std::mt19937_64 random(seed);
  Source source;
  source.codes.resize(static_cast<size_t>(rows * cols));
  for (int8_t& code : source.codes) code = static_cast<int8_t>(static_cast<int>(random() % 16) - 8);
  source.scales.resize(static_cast<size_t>(rows * cols / group_size));
  std::vector<BFloat16> scales;
  for (uint16_t& scale : source.scales) {
    scale = static_cast<uint16_t>(random());
    scales.push_back(BFloat16::FromBits(scale));
  }
  source.packed = {.bits = 4,
                   .rows = rows,
                   .cols = cols,
                   .group_size = group_size,
                   .packed = PackCodes(source.codes, rows, cols, 4),
                   .scales = Tensor::FromVector(scales, Shape{rows, cols / group_size}),
                   .zero_point = std::nullopt,
                   .g_idx = std::nullopt};
  return source;
}

template <typename PackFunction>
W4Codes PackAndUnpack(const W4Layout& layout, const PackFunction& pack) {
  std::vector<std::byte> bytes(static_cast<size_t>(layout.size_bytes()), std::byte{0xee});
  pack(std::span<std::byte>(bytes));
  return UnpackW4(layout, bytes);
}

TEST(W4Layout, PanelsAreAsTallAsTheRowsAllow) {
  for (const auto& [rows, panel] : {std::pair{6144, 256},
                                    {16384, 256},
                                    {32768, 256},
                                    {8192, 256},
                                    {1024, 256},
                                    {384, 128},
                                    {128, 128},
                                    {64, 64},
                                    {192, 64},
                                    {1, 64},
                                    {65, 128},
                                    {250, 256}}) {
    EXPECT_EQ(MakeW4Layout(rows, 128).panel_rows, panel) << rows;
  }
  EXPECT_EQ(MakeW4Layout(6144, 16384).size_bytes(), 6144 * 16384 / 2 + 6144 * 128 * 2);
}

TEST(W4Layout, EveryCodeAndScaleHasBitsOfItsOwn) {
  for (const auto& [rows, cols] : {std::pair{64, 128}, {128, 384}, {256, 256}, {576, 128}}) {
    const W4Layout layout = MakeW4Layout(rows, cols);
    std::vector<int> used(static_cast<size_t>(layout.size_bytes() * 2));  // nibbles
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; ++col) {
        const W4CodePosition at = CodePosition(layout, row, col);
        ASSERT_EQ(at.byte % 4, 0);
        ++used.at(static_cast<size_t>(at.byte * 2 + at.shift / 4));
      }
      for (int64_t group = 0; group < cols / 128; ++group) {
        for (int64_t n = 0; n < 4; ++n) {
          ++used.at(static_cast<size_t>(ScalePosition(layout, row, group) * 2 + n));
        }
      }
    }
    EXPECT_THAT(used, ::testing::Each(1)) << rows << " x " << cols;
  }
}

// The A operand of mma.m16n8k16 for 16-bit types in the words of the PTX manual: lane l has a
// `groupID` l >> 2 and a `threadID_in_group` l % 4; its elements a0..a7 lie two to a register.
TEST(W4Layout, AWordHoldsTheFragmentOfTheMatrixInstruction) {
  const W4Layout layout = MakeW4Layout(256, 256);
  for (int64_t row_base = 0; row_base < 256; row_base += 16) {
    for (int64_t col_base = 0; col_base < 256; col_base += 16) {
      std::set<int64_t> words;
      for (int lane = 0; lane < 32; ++lane) {
        const int group_id = lane >> 2;
        const int thread_id_in_group = lane % 4;
        std::set<int64_t> word_of_lane;
        for (int i = 0; i < 8; ++i) {
          const int row = (i < 2 || (4 <= i && i < 6)) ? group_id : group_id + 8;
          const int col = thread_id_in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
          const W4CodePosition at = CodePosition(layout, row_base + row, col_base + col);
          // (word >> 4 * reg) & 0x000f000f leaves a register's two codes at bits 0 and 16.
          EXPECT_EQ(at.shift, 4 * (i / 2) + 16 * (i % 2));
          word_of_lane.insert(at.byte);
        }
        ASSERT_EQ(word_of_lane.size(), 1u);
        words.insert(*word_of_lane.begin());
        // Vectors of a warp follow each other.
        const int64_t first = CodePosition(layout, row_base, col_base).byte;
        EXPECT_EQ(*word_of_lane.begin(), first + 16 * lane);
      }
      EXPECT_EQ(words.size(), 32u);
    }
  }
}

TEST(W4Layout, AVectorHoldsFourBlocksOfInputs) {
  const W4Layout layout = MakeW4Layout(256, 128);
  for (int64_t row = 0; row < 256; row += 5) {
    for (int64_t col = 0; col < 64; ++col) {
      const int64_t vector = CodePosition(layout, row, col % 16).byte;
      EXPECT_EQ(vector % 16, 0);
      EXPECT_EQ(CodePosition(layout, row, col).byte, vector + col / 16 * 4);
      EXPECT_EQ(CodePosition(layout, row, col + 64).byte, vector + 512 + col / 16 * 4);
    }
  }
}

TEST(W4Pack, RoundTripOverShapes) {
  ThreadPool pool(2);
  uint64_t seed = 1;
  for (const int64_t rows : {1, 15, 16, 63, 64, 65, 128, 200, 256, 320, 768}) {
    for (const int64_t cols : {128, 256, 640}) {
      const Source source = RandomSource(rows, cols, ++seed);
      const W4Part part = W4Part::Whole(source.packed.view());
      const W4Codes back = PackAndUnpack(
          LayoutOfW4(part), [&](std::span<std::byte> out) { PackW4(part, out, pool); });
      EXPECT_EQ(back.codes, source.codes) << rows << " x " << cols;
      EXPECT_EQ(back.scales, source.scales) << rows << " x " << cols;
    }
  }
}

TEST(W4Pack, RowsThatFillARecordUpAreZero) {
  ThreadPool pool(1);
  const Source source = RandomSource(70, 256, 3);
  const W4Part part = W4Part::Whole(source.packed.view());
  W4Layout layout = LayoutOfW4(part);
  std::vector<std::byte> bytes(static_cast<size_t>(layout.size_bytes()), std::byte{0xee});
  PackW4(part, bytes, pool);
  layout.rows = layout.padded_rows();
  ASSERT_EQ(layout.rows, 128);
  const W4Codes all = UnpackW4(layout, bytes);
  for (size_t i = 70 * 256; i < all.codes.size(); ++i) ASSERT_EQ(all.codes[i], 0);
  for (size_t i = 70 * 2; i < all.scales.size(); ++i) ASSERT_EQ(all.scales[i], 0);
}

TEST(W4Pack, LongGroupsRepeatTheirScale) {
  ThreadPool pool(1);
  const Source source = RandomSource(64, 768, 4, 256);
  const W4Part part = W4Part::Whole(source.packed.view());
  const W4Codes back =
      PackAndUnpack(LayoutOfW4(part), [&](std::span<std::byte> out) { PackW4(part, out, pool); });
  EXPECT_EQ(back.codes, source.codes);
  for (size_t row = 0; row < 64; ++row) {
    for (size_t group = 0; group < 6; ++group) {
      EXPECT_EQ(back.scales[row * 6 + group], source.scales[row * 3 + group / 2]);
    }
  }
}

// 8x22B has hidden 6144, 48 and 8 heads of 128, middle 16384. A sixteenth of the hidden and middle
// sizes, and all ways to split them over ranks: rows of q, k, v, w1, w3; columns of o and w2.
TEST(W4Pack, ShardsTogetherHoldTheWholeMatrix) {
  ThreadPool pool(2);
  constexpr int64_t kHidden = 384;
  constexpr int64_t kMiddle = 1024;
  for (const int64_t ranks : {1, 2, 4, 8}) {
    const Source gate = RandomSource(kMiddle, kHidden, 10);
    const Source up = RandomSource(kMiddle, kHidden, 11);
    const Source down = RandomSource(kHidden, kMiddle, 12);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t rows = kMiddle / ranks;
      const W4Part gate_part{gate.packed.view(), rank * rows, rows, 0, kHidden};
      const W4Part up_part{up.packed.view(), rank * rows, rows, 0, kHidden};
      const W4Layout merged = LayoutOfW4GateUp(gate_part, up_part);
      EXPECT_EQ(merged.rows, 2 * rows);
      const W4Codes pair = PackAndUnpack(
          merged, [&](std::span<std::byte> out) { PackW4GateUp(gate_part, up_part, out, pool); });
      for (int64_t i = 0; i < rows; ++i) {  // feature i of the shard, computed independently
        for (const auto& [source, below] : {std::pair{&gate, 0}, {&up, 8}}) {
          const int64_t merged_row = i / 8 * 16 + below + i % 8;
          for (int64_t col = 0; col < kHidden; ++col) {
            ASSERT_EQ(pair.codes[static_cast<size_t>(merged_row * kHidden + col)],
                      source->codes[static_cast<size_t>((rank * rows + i) * kHidden + col)]);
          }
          for (int64_t group = 0; group < kHidden / 128; ++group) {
            ASSERT_EQ(pair.scales[static_cast<size_t>(merged_row * 3 + group)],
                      source->scales[static_cast<size_t>((rank * rows + i) * 3 + group)]);
          }
        }
      }
      const int64_t cols = kMiddle / ranks;
      const W4Part down_part{down.packed.view(), 0, kHidden, rank * cols, cols};
      const W4Codes columns = PackAndUnpack(
          LayoutOfW4(down_part), [&](std::span<std::byte> out) { PackW4(down_part, out, pool); });
      for (int64_t row = 0; row < kHidden; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          ASSERT_EQ(columns.codes[static_cast<size_t>(row * cols + col)],
                    down.codes[static_cast<size_t>(row * kMiddle + rank * cols + col)]);
        }
        for (int64_t group = 0; group < cols / 128; ++group) {
          ASSERT_EQ(columns.scales[static_cast<size_t>(row * (cols / 128) + group)],
                    down.scales[static_cast<size_t>(row * (kMiddle / 128) + rank * (cols / 128) +
                                                    group)]);
        }
      }
    }
  }
}

TEST(W4Pack, QueriesKeysAndValuesMeetTheirPartners) {
  ThreadPool pool(2);
  for (const auto& [heads, kv_heads, head_dim] :
       {std::tuple{6, 1, 128}, {4, 2, 64}, {3, 3, 16}, {1, 1, 32}, {6, 2, 48}}) {
    const int64_t cols = 256;
    const Source q = RandomSource(heads * head_dim, cols, 20);
    const Source k = RandomSource(kv_heads * head_dim, cols, 21);
    const Source v = RandomSource(kv_heads * head_dim, cols, 22);
    const W4Part parts[] = {W4Part::Whole(q.packed.view()), W4Part::Whole(k.packed.view()),
                            W4Part::Whole(v.packed.view())};
    const W4Layout layout = LayoutOfW4Qkv(parts[0], parts[1], parts[2], head_dim);
    const W4Codes merged = PackAndUnpack(layout, [&](std::span<std::byte> out) {
      PackW4Qkv(parts[0], parts[1], parts[2], head_dim, out, pool);
    });
    std::set<std::pair<int, int64_t>> seen;
    for (int64_t row = 0; row < layout.rows; ++row) {
      const W4SourceRow source = QkvSource(row, heads, kv_heads, head_dim);
      EXPECT_TRUE(seen.insert({source.part, source.row}).second);
      const Source& from = source.part == 0 ? q : source.part == 1 ? k : v;
      for (int64_t col = 0; col < cols; ++col) {
        ASSERT_EQ(merged.codes[static_cast<size_t>(row * cols + col)],
                  from.codes.at(static_cast<size_t>(source.row * cols + col)));
      }
      for (int64_t group = 0; group < 2; ++group) {
        ASSERT_EQ(merged.scales[static_cast<size_t>(row * 2 + group)],
                  from.scales.at(static_cast<size_t>(source.row * 2 + group)));
      }
      // The row that a lane accumulates together with row g is the other half of the same rotation.
      if (source.part < 2 && row % 16 < 8) {
        const W4SourceRow partner = QkvSource(row + 8, heads, kv_heads, head_dim);
        EXPECT_EQ(partner.part, source.part);
        EXPECT_EQ(partner.row, source.row + head_dim / 2);
        EXPECT_EQ(partner.row / head_dim, source.row / head_dim);
      }
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>((heads + 2 * kv_heads) * head_dim));
  }
}

TEST(W4Pack, BytesDoNotDependOnThreads) {
  const Source source = RandomSource(576, 384, 5);
  const W4Part part = W4Part::Whole(source.packed.view());
  std::vector<std::vector<std::byte>> results;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    results.emplace_back(static_cast<size_t>(LayoutOfW4(part).size_bytes()));
    PackW4(part, results.back(), pool);
  }
  EXPECT_EQ(results[0], results[1]);
}

template <typename Call>
void ExpectRefused(const Call& call, const std::string& words) {
  try {
    call();
    FAIL() << "not refused: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr(words));
  }
}

TEST(W4Pack, WhatTheKernelsDoNotReadIsRefusedByName) {
  const Source source = RandomSource(64, 256, 6);
  PackedView view = source.packed.view();
  ExpectRefused([&] { LayoutOfW4({view, 0, 64, 64, 128}); }, "columns 64 to 192");
  ExpectRefused([&] { LayoutOfW4({view, 0, 64, 0, 100}); }, "columns 0 to 100");
  const W4Part whole = W4Part::Whole(view);
  const W4Part narrow{view, 0, 64, 0, 128};
  ExpectRefused([&] { LayoutOfW4GateUp(whole, narrow); }, "128 columns beside one of 256");
  ExpectRefused([&] { LayoutOfW4GateUp(whole, {view, 0, 56, 0, 256}); }, "64 gate and 56 up");
  ExpectRefused([&] { LayoutOfW4GateUp({view, 0, 4, 0, 256}, {view, 0, 4, 0, 256}); }, "4 gate");
  ExpectRefused([&] { LayoutOfW4Qkv(whole, whole, whole, 24); }, "heads of 24");
  ExpectRefused([&] { LayoutOfW4Qkv(whole, whole, {view, 0, 32, 0, 256}, 32); }, "32 rows");

  PackedView changed = view;
  changed.bits = 8;
  ExpectRefused([&] { LayoutOfW4(W4Part::Whole(changed)); }, "8 bits");
  changed = view;
  changed.group_size = 64;
  ExpectRefused([&] { LayoutOfW4(W4Part::Whole(changed)); }, "groups of 64");
  changed = view;
  const Tensor floats(DType::kF16, Shape{64, 2});
  changed.scales = floats.view();
  ExpectRefused([&] { LayoutOfW4(W4Part::Whole(changed)); }, "F16");
  changed = view;
  const Tensor zeros(DType::kI32, Shape{8, 2});
  changed.zero_point = zeros.view();
  ExpectRefused([&] { LayoutOfW4(W4Part::Whole(changed)); }, "zero points");
  changed = view;
  const Tensor groups(DType::kI32, Shape{256});
  changed.g_idx = groups.view();
  ExpectRefused([&] { LayoutOfW4(W4Part::Whole(changed)); }, "group index");
}

}  // namespace
}  // namespace nibble::cuda
