#include "quantize/passes/activation_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "backend/host/host_data.h"
#include "backend/make_backend.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

TEST(ActivationStream, TakesEveryRowThroughTheStepsInOrder) {
  LayerSpec layer;
  layer.attention = {.num_heads = 1, .num_kv_heads = 1, .head_dim = 2};
  layer.router = {.num_experts = 2, .top_k = 1};
  layer.intermediate = 4;
  ModelSpec spec;
  spec.hidden_size = 2;
  spec.layers = {layer};
  const auto backend = MakeBackend("reference");
  const std::vector<std::vector<int32_t>> sequences = {{0, 1, 2}, {1, 1}, {2}};
  const TokenBatches batches = CutIntoBatches(sequences, 4);
  Workspace workspace(*backend, spec, batches.max_tokens, batches.num_blocks);
  ActivationStream stream(batches, *backend, workspace);

  const Tensor table = Tensor::FromVector<float>({0, 10, 1, 11, 2, 12}, Shape{3, 2});
  const auto embedding = backend->Prepare(table.view(), Role::kEmbedding);
  const auto directory = std::filesystem::path(::testing::TempDir()) / "activation_stream";
  std::filesystem::create_directories(directory);
  for (const bool in_file : {false, true}) {
    HiddenStates hidden =
        in_file ? HiddenStates::InFile(6, 2, directory) : HiddenStates::InMemory(6, 2);
    stream.Embed(*embedding, hidden);
    std::vector<float> rows(12);
    hidden.Load(0, rows);
    EXPECT_THAT(rows, ElementsAre(0, 10, 1, 11, 2, 12, 1, 11, 1, 11, 2, 12));

    std::vector<int64_t> firsts;
    stream.ForEach(hidden, &hidden, [&](const TokenBatch& batch) {
      firsts.push_back(batch.first_token);
      for (int64_t row = 0; row < workspace.x.rows; ++row) HostRow(workspace.x, row)[0] += 100;
    });
    EXPECT_THAT(firsts, ElementsAre(0, 3));
    hidden.Load(0, rows);
    EXPECT_THAT(rows, ElementsAre(100, 10, 101, 11, 102, 12, 101, 11, 101, 11, 102, 12));

    // Without a destination nothing is kept.
    stream.ForEach(hidden, nullptr, [&](const TokenBatch&) { HostRow(workspace.x, 0)[0] = -1; });
    std::vector<float> after(12);
    hidden.Load(0, after);
    EXPECT_EQ(after, rows);

    // What experts read takes the same way, beside x.
    HiddenStates inputs =
        in_file ? HiddenStates::InFile(6, 2, directory) : HiddenStates::InMemory(6, 2);
    Activation& h = workspace.scratch.h;
    stream.ForEach(hidden, nullptr, [&](const TokenBatch& batch) {
      h.Resize(workspace.x.rows, 2);
      for (int64_t row = 0; row < h.rows; ++row) {
        HostRow(h, row)[0] = static_cast<float>(batch.first_token + row);
        HostRow(h, row)[1] = 7;
      }
      stream.StoreExpertInput(batch, inputs);
    });
    inputs.Load(0, rows);
    EXPECT_THAT(rows, ElementsAre(0, 7, 1, 7, 2, 7, 3, 7, 4, 7, 5, 7));
    std::vector<float> seen;
    stream.ForEachExpertInput(inputs, [&](const TokenBatch&) {
      seen.insert(seen.end(), HostData(h), HostData(h) + h.rows * h.cols);
    });
    EXPECT_EQ(seen, rows);
  }
}

}  // namespace
}  // namespace nibble
