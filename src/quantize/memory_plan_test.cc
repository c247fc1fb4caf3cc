#include "quantize/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/make_backend.h"
#include "quantize/passes/activation_stream.h"
#include "quantize/passes/hidden_states.h"
#include "quantize/passes/router_census.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Passes = LayerPlan::Passes;

ModelSpec Mixtral8x22B() {
  LayerSpec layer;
  layer.attention = {.num_heads = 48, .num_kv_heads = 8, .head_dim = 128};
  layer.router = {.num_experts = 8, .top_k = 2};
  layer.intermediate = 16384;
  ModelSpec spec;
  spec.vocab_size = 32000;
  spec.hidden_size = 6144;
  spec.layers.assign(56, layer);
  return spec;
}

class MemoryPlanTest : public ::testing::Test {
 protected:
  MemoryPlanTest() { SetTokens(4096); }

  void SetTokens(int64_t tokens) {
    batches_.max_tokens = 2048;
    batches_.num_tokens = tokens;
    batches_.num_blocks = 160;
  }

  MemoryPlan Plan(int64_t budget) {
    const MemoryPlan plan = PlanMemory({.spec = spec_,
                                        .recipe = recipe_,
                                        .backend = *backend_,
                                        .stored_dtype = stored_dtype_,
                                        .batches = batches_,
                                        .probe_tokens = 1024,
                                        .expert_tokens = expert_tokens_,
                                        .written_bytes = 1'300'000'000,
                                        .budget_bytes = budget});
    int64_t sum = 0;
    for (const QuantizePlan::Item& item : plan.items) sum += item.bytes;
    EXPECT_EQ(sum, plan.bytes);
    EXPECT_EQ(plan.lacking.empty(), sum <= budget);
    return plan;
  }

  // Bytes of an item of the plan; 0 if it has none of that name.
  int64_t Item(const std::string& name, int64_t budget = 100 * (int64_t{1} << 30)) {
    for (const QuantizePlan::Item& item : Plan(budget).items) {
      if (item.name == name) return item.bytes;
    }
    return 0;
  }

  ModelSpec spec_ = Mixtral8x22B();
  Recipe recipe_;
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu", {.threads = 2, .instruction_set = {}});
  DType stored_dtype_ = DType::kBF16;
  TokenBatches batches_;
  ExpertTokens expert_tokens_ = ExpertTokens::kRouted;
};

constexpr int64_t kGiB = int64_t{1} << 30;

TEST_F(MemoryPlanTest, ALayerOf8x22BFitsInEightGibibytesOneExpertAtATime) {
  const LayerPlan plan = Plan(8 * kGiB).layers;
  EXPECT_EQ(plan.passes, Passes::kInTurns);
  EXPECT_TRUE(plan.keeps_expert_input());
  EXPECT_GE(plan.experts_at_once, 1);
  EXPECT_LT(plan.experts_at_once, 8);
  EXPECT_FALSE(plan.activations_in_file);
  const MemoryPlan plenty = Plan(100 * kGiB);
  EXPECT_EQ(plenty.layers.passes, Passes::kOne);
  EXPECT_FALSE(plenty.layers.keeps_expert_input());
  EXPECT_EQ(plenty.layers.experts_at_once, 8);
  EXPECT_GT(plenty.bytes, 8 * kGiB);
}

TEST_F(MemoryPlanTest, ManyTokensGoToAFile) {
  SetTokens(350'000);  // 8.6 GB, twice
  const MemoryPlan plan = Plan(8 * kGiB);
  EXPECT_TRUE(plan.layers.activations_in_file);
  EXPECT_EQ(plan.disk_bytes, int64_t{2} * 350'000 * 6144 * 4);
  EXPECT_EQ(Plan(64 * kGiB).disk_bytes, 0);
}

TEST_F(MemoryPlanTest, TooLittleIsToldWithTheNumbersAndThePlanIsWhole) {
  const MemoryPlan plan = Plan(kGiB);
  EXPECT_THAT(plan.lacking, AllOf(HasSubstr("one expert at a time needs"), HasSubstr("1.1 GB"),
                                  HasSubstr("`memory_bytes`")));
  EXPECT_EQ(plan.layers.experts_at_once, 1);
  EXPECT_TRUE(plan.layers.activations_in_file);
  EXPECT_GT(plan.disk_bytes, 0);
}

TEST_F(MemoryPlanTest, RoundingNeedsNoHessians) {
  recipe_.method = Method::kRoundToNearest;
  EXPECT_LT(Plan(8 * kGiB).bytes, 6 * kGiB);
  EXPECT_EQ(Plan(8 * kGiB).layers.passes, Passes::kNone);
}

TEST_F(MemoryPlanTest, ToppingUpKeepsTheActivationsBetweenAttentionAndExperts) {
  const int64_t once = Item("activations of all tokens");
  EXPECT_EQ(once, HiddenStates::SizeBytes(4096, 6144));
  EXPECT_EQ(Item("what the router thought of them"), 0);
  expert_tokens_ = ExpertTokens::kToppedUp;
  EXPECT_EQ(Plan(100 * kGiB).layers.passes, Passes::kInTurns);
  EXPECT_EQ(Item("activations of all tokens"), 2 * once);
  EXPECT_EQ(Item("what the router thought of them"),
            RouterCensus::SizeBytes(spec_.layer(0).router, 4096,
                                    {.choices = true, .probabilities = true}));
  expert_tokens_ = ExpertTokens::kAll;
  EXPECT_EQ(Plan(100 * kGiB).layers.passes, Passes::kOne);
}

TEST_F(MemoryPlanTest, WeightsTakeWhatTheBackendMakesOfThem) {
  const int64_t weights = 8 * 3 * int64_t{6144} * 16384 + 6144 * (2 * 6144 + 2 * 1024);
  EXPECT_EQ(Item("their dense weights"), 2 * weights);
  stored_dtype_ = DType::kF16;  // widened
  EXPECT_EQ(Item("their dense weights"), 4 * weights);
  stored_dtype_ = DType::kBF16;
  backend_ = MakeBackend("reference");
  EXPECT_EQ(Item("their dense weights"), 4 * weights);
}

// What is made in a run, measured against what was planned for it.
TEST_F(MemoryPlanTest, AWorkspaceTakesWhatItSays) {
  const auto bytes_of = [](const Activation& x) { return x.buffer.size_bytes(); };
  const Workspace workspace(*backend_, spec_, 64, 3);
  const LayerScratch& scratch = workspace.scratch;
  const int64_t host = bytes_of(workspace.x);  // as large, made when first needed
  EXPECT_EQ(Workspace::SizeBytes(*backend_, spec_, 64, 3),
            bytes_of(scratch.normed) + bytes_of(scratch.q) + bytes_of(scratch.attended) +
                bytes_of(scratch.h) + bytes_of(scratch.g) + bytes_of(workspace.x) + host +
                3 * backend_->KvBlockBytes(workspace.kv->shape()));
}

}  // namespace
}  // namespace nibble
