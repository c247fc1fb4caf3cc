#include "quantize/passes/layer_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "backend/host/host_data.h"
#include "backend/make_backend.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using nibble::testing::RandomMixtral;
using nibble::testing::RandomTokens;
using nibble::testing::TemporaryDirectory;

// Records the activations at the taps of a plain forward pass of one sequence.
class Recorder : public LayerObserver {
 public:
  void AttentionInput(const Activation& x) override { Append(attention_input, x); }
  void AttentionOutput(const Activation& x) override { Append(attention_output, x); }
  void ExpertInput(const Activation& h, const Routing& on_host) override {
    const RoutingTable& routing = HostTable(on_host);
    for (int64_t e = 0; e < routing.num_experts; ++e) {
      for (int32_t slot = routing.expert_starts[e];
           slot < routing.expert_starts[static_cast<size_t>(e) + 1]; ++slot) {
        const float* const row = HostRow(h, routing.slot_tokens[slot]);
        expert_input[e].insert(expert_input[e].end(), row, row + h.cols);
      }
    }
  }
  void ExpertMiddle(const Activation& g, const Routing& on_host) override {
    const RoutingTable& routing = HostTable(on_host);
    for (int64_t e = 0; e < routing.num_experts; ++e) {
      const float* const begin = HostRow(g, routing.expert_starts[e]);
      const float* const end = HostRow(g, routing.expert_starts[static_cast<size_t>(e) + 1]);
      expert_middle[e].insert(expert_middle[e].end(), begin, end);
    }
  }

  std::vector<float> attention_input, attention_output;
  std::map<int64_t, std::vector<float>> expert_input, expert_middle;

 private:
  static void Append(std::vector<float>& to, const Activation& x) {
    to.insert(to.end(), HostData(x), HostData(x) + x.rows * x.cols);
  }
};

void ExpectGram(Hessian& hessian, const std::vector<float>& rows) {
  const int64_t n = hessian.size();
  const int64_t tokens = static_cast<int64_t>(rows.size()) / n;
  EXPECT_EQ(hessian.tokens(), tokens);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = 0, size = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const double product =
            static_cast<double>(rows[t * n + i]) * static_cast<double>(rows[t * n + j]);
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(hessian.data()[i * n + j], sum, 1e-5 * size + 1e-12);
    }
  }
}

class LayerStatisticsTest : public ::testing::Test {
 protected:
  LayerStatisticsTest() {
    WriteRandomMixtral(random_, directory_.path());
    checkpoint_ = std::make_unique<Checkpoint>(directory_.path());
    for (uint64_t i = 0; i < 5; ++i)
      sequences_.push_back(RandomTokens(20 + 13 * static_cast<int64_t>(i), 101, i));
    batches_ = CutIntoBatches(sequences_, 64);
  }

  const ModelConfig& config() const { return checkpoint_->config(); }

  RandomMixtral random_;
  TemporaryDirectory directory_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<std::vector<int32_t>> sequences_;
  TokenBatches batches_;
};

TEST_F(LayerStatisticsTest, SumsAreThoseOfAPlainForwardHoweverExpertsAreGrouped) {
  for (const char* name : {"reference", "cpu"}) {
    const auto backend = MakeBackend(name, {.threads = 2, .instruction_set = {}});
    const ModelSpec spec = SpecOf(config());
    Workspace workspace(*backend, spec, batches_.max_tokens, batches_.num_blocks);
    ActivationStream stream(batches_, *backend, workspace);
    const LayerWeights weights = LoadLayer(*checkpoint_, 0, *backend);
    OuterWeights outer = LoadOuter(*checkpoint_, *backend);
    HiddenStates hidden = HiddenStates::InMemory(batches_.num_tokens, config().hidden_size);
    stream.Embed(*outer.embedding, hidden);

    Recorder recorder;
    const DecoderLayer layer(*backend);
    stream.ForEach(hidden, nullptr, [&](const TokenBatch&) {
      layer.Forward(spec.layer(0), weights, 0, workspace.x, workspace.scratch, &recorder);
    });

    const auto make = [&](int64_t count) {
      std::vector<ExpertHessians> hessians;
      for (int64_t e = 0; e < count; ++e) {
        hessians.push_back({Hessian(config().hidden_size), Hessian(config().intermediate_size)});
      }
      return hessians;
    };
    LayerStatistics statistics(stream);
    AttentionHessians attention{Hessian(config().hidden_size),
                                Hessian(config().num_heads * config().head_dim)};
    std::vector<ExpertHessians> experts = make(5);
    RouterCensus census(spec.layer(0).router, batches_.num_tokens, {});
    statistics.GatherLayer(spec.layer(0), weights, hidden, {}, attention, census, experts);
    ExpectGram(attention.input, recorder.attention_input);
    ExpectGram(attention.output, recorder.attention_output);
    for (int64_t e = 0; e < 5; ++e) {
      ExpectGram(experts[e].input, recorder.expert_input[e]);
      ExpectGram(experts[e].middle, recorder.expert_middle[e]);
      EXPECT_EQ(census.tokens_per_expert()[e], experts[e].input.tokens());
    }

    // Groups of experts, from their inputs and the router's choices as they were kept: the same
    // bits.
    const auto expect_same = [](Hessian& a, Hessian& b) {
      EXPECT_EQ(a.tokens(), b.tokens());
      EXPECT_TRUE(std::equal(a.data(), a.data() + a.size() * a.size(), b.data()));
    };
    for (const bool in_file : {false, true}) {
      HiddenStates expert_input =
          in_file
              ? HiddenStates::InFile(batches_.num_tokens, config().hidden_size, directory_.path())
              : HiddenStates::InMemory(batches_.num_tokens, config().hidden_size);
      AttentionHessians attention_again{Hessian(config().hidden_size),
                                        Hessian(config().num_heads * config().head_dim)};
      RouterCensus keeping(spec.layer(0).router, batches_.num_tokens, {.choices = true});
      statistics.GatherAttention(spec.layer(0), weights, hidden, attention_again, keeping,
                                 expert_input);
      expect_same(attention_again.input, attention.input);
      expect_same(attention_again.output, attention.output);
      EXPECT_TRUE(std::ranges::equal(keeping.tokens_per_expert(), census.tokens_per_expert()));
      for (int64_t first = 0; first < 5; first += 2) {
        std::vector<ExpertHessians> some = make(std::min<int64_t>(2, 5 - first));
        statistics.GatherExperts(spec.layer(0), weights, expert_input, keeping, {}, first, some);
        for (size_t i = 0; i < some.size(); ++i) {
          ExpertHessians& together = experts[static_cast<size_t>(first) + i];
          expect_same(some[i].input, together.input);
          expect_same(some[i].middle, together.middle);
        }
      }
    }
  }
}

TEST_F(LayerStatisticsTest, AllExpertsMaySeeAllTokens) {
  const auto backend = MakeBackend("cpu", {.threads = 2, .instruction_set = {}});
  const ModelSpec spec = SpecOf(config());
  Workspace workspace(*backend, spec, batches_.max_tokens, batches_.num_blocks);
  ActivationStream stream(batches_, *backend, workspace);
  const LayerWeights weights = LoadLayer(*checkpoint_, 0, *backend);
  const OuterWeights outer = LoadOuter(*checkpoint_, *backend);
  HiddenStates hidden = HiddenStates::InMemory(batches_.num_tokens, config().hidden_size);
  stream.Embed(*outer.embedding, hidden);
  std::vector<ExpertHessians> hessians;
  for (int e = 0; e < 5; ++e) {
    hessians.push_back({Hessian(config().hidden_size), Hessian(config().intermediate_size)});
  }
  LayerStatistics statistics(stream);
  AttentionHessians attention{Hessian(config().hidden_size),
                              Hessian(config().num_heads * config().head_dim)};
  RouterCensus census(spec.layer(0).router, batches_.num_tokens, {});
  statistics.GatherLayer(spec.layer(0), weights, hidden, {.all_tokens = true}, attention, census,
                         hessians);
  for (ExpertHessians& sums : hessians) {
    EXPECT_EQ(sums.input.tokens(), batches_.num_tokens);
    EXPECT_EQ(sums.middle.tokens(), batches_.num_tokens);
    // All experts read the same inputs.
    EXPECT_TRUE(
        std::equal(sums.input.data(), sums.input.data() + 48 * 48, hessians.front().input.data()));
  }
}

TEST_F(LayerStatisticsTest, ActivationsThatAreNotFiniteNameTheirToken) {
  const auto backend = MakeBackend("cpu", {.threads = 2, .instruction_set = {}});
  const ModelSpec spec = SpecOf(config());
  Workspace workspace(*backend, spec, batches_.max_tokens, batches_.num_blocks);
  ActivationStream stream(batches_, *backend, workspace);
  const LayerWeights weights = LoadLayer(*checkpoint_, 0, *backend);
  HiddenStates hidden = HiddenStates::InMemory(batches_.num_tokens, config().hidden_size);
  hidden.Rows(70, 1)[3] = NAN;  // of the second batch
  LayerStatistics statistics(stream);
  AttentionHessians attention{Hessian(config().hidden_size),
                              Hessian(config().num_heads * config().head_dim)};
  RouterCensus census(spec.layer(0).router, batches_.num_tokens, {});
  HiddenStates expert_input = HiddenStates::InMemory(batches_.num_tokens, config().hidden_size);
  try {
    statistics.GatherAttention(spec.layer(0), weights, hidden, attention, census, expert_input);
    FAIL();
  } catch (const NonFiniteActivations& error) {
    EXPECT_EQ(error.token(), 70);
    EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
  }
}

}  // namespace
}  // namespace nibble
