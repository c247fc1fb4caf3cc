#include "quantize/passes/hidden_states.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace nibble {
namespace {

TEST(HiddenStates, MemoryAndFileKeepTheSameRows) {
  const auto directory = std::filesystem::path(::testing::TempDir()) / "hidden_states";
  std::filesystem::create_directories(directory);
  HiddenStates memory = HiddenStates::InMemory(1000, 7);
  HiddenStates file = HiddenStates::InFile(1000, 7, directory);
  EXPECT_FALSE(memory.in_file());
  EXPECT_TRUE(file.in_file());
  EXPECT_TRUE(std::filesystem::is_empty(directory));  // so nothing remains even after a kill
  std::vector<float> rows(3 * 7);
  std::iota(rows.begin(), rows.end(), 0.5f);
  for (HiddenStates* states : {&memory, &file}) {
    std::vector<float> found(rows.size(), 1.0f);
    states->Load(500, found);
    EXPECT_EQ(found, std::vector<float>(rows.size(), 0.0f));
    states->Store(997, rows);
    const std::span<const float> there = std::as_const(*states).Rows(997, 3);
    EXPECT_EQ(there.empty(), states->in_file());
    EXPECT_TRUE(there.empty() || std::equal(there.begin(), there.end(), rows.begin(), rows.end()));
    HiddenStates moved = std::move(*states);
    moved.Load(997, found);
    EXPECT_EQ(found, rows);
  }
}

TEST(HiddenStates, NoRowsAreFine) {
  HiddenStates none = HiddenStates::InMemory(0, 7);
  none.Load(0, {});
  none.Store(0, {});
}

}  // namespace
}  // namespace nibble
