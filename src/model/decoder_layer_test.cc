#include "model/decoder_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "backend/make_backend.h"
#include "model/batch_builder.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

// One layer of a random model, and hidden states to run through it.
class DecoderLayerOn : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr int64_t kTokens = 13;
  static constexpr int64_t kLayer = 1;

  DecoderLayerOn() {
    testing::WriteRandomMixtral({}, directory_.path());
    checkpoint_ = std::make_unique<Checkpoint>(directory_.path());
    const Checkpoint& checkpoint = *checkpoint_;
    spec_ = SpecOf(checkpoint.config());
    backend_ = MakeBackend(GetParam());
    weights_ = LoadLayer(checkpoint, kLayer, *backend_);
    table_ = LoadOuter(checkpoint, *backend_).embedding;
    scratch_ = std::make_unique<LayerScratch>(*backend_, spec_, kTokens);
    kv_ = backend_->MakeKvPages(spec_.Kv(DType::kF32, 16), 2);
    BatchBuilder builder;
    builder.Add(testing::RandomTokens(kTokens, spec_.vocab_size, 4), 0, std::vector<int32_t>{0},
                kTokens);
    batch_ = builder.Take();
    x_ = backend_->MakeActivation(kTokens, spec_.hidden_size);
  }

  std::vector<float> Values(const Activation& x) {
    std::vector<float> values(x.rows * x.cols);
    backend_->Download(x, values);
    return values;
  }

  const LayerSpec& layer_spec() const { return spec_.layer(kLayer); }

  testing::TemporaryDirectory directory_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelSpec spec_;
  std::unique_ptr<Backend> backend_;
  LayerWeights weights_;
  std::unique_ptr<Weight> table_;
  std::unique_ptr<LayerScratch> scratch_;
  std::unique_ptr<KvPages> kv_;
  Batch batch_;
  Activation x_;
};
INSTANTIATE_TEST_SUITE_P(Backends, DecoderLayerOn, ::testing::Values("reference", "cpu"));

// Notes what it heard, and in which order.
class Listener : public LayerObserver {
 public:
  void AttentionInput(const Activation& x) override { Note("attention input", x); }
  void AttentionOutput(const Activation& x) override { Note("attention output", x); }
  void ExpertInput(const Activation& x, const Routing&) override { Note("expert input", x); }
  void ExpertMiddle(const Activation& x, const Routing&) override { Note("expert middle", x); }

  std::vector<std::string> heard;

 private:
  void Note(const std::string& what, const Activation& x) {
    heard.push_back(what + " " + std::to_string(x.rows) + "x" + std::to_string(x.cols));
  }
};

TEST_P(DecoderLayerOn, ObserversHearEveryBorderOnceAndChangeNothing) {
  const DecoderLayer layer(*backend_);
  backend_->BeginStep(batch_, *kv_);
  backend_->Embed(*table_, x_);
  layer.Forward(layer_spec(), weights_, kLayer, x_, *scratch_);
  const std::vector<float> alone = Values(x_);
  Listener listener;
  backend_->Embed(*table_, x_);
  layer.Forward(layer_spec(), weights_, kLayer, x_, *scratch_, &listener);
  backend_->EndStep();
  EXPECT_EQ(Values(x_), alone);
  EXPECT_THAT(listener.heard,
              ::testing::ElementsAre("attention input 13x48", "attention output 13x72",
                                     "expert input 13x48", "expert middle 26x72"));
}

// The quantizer runs experts one at a time over regrouped slots: together they are the whole.
TEST_P(DecoderLayerOn, ExpertsOneAtATimeAddUpToAllAtOnce) {
  const DecoderLayer layer(*backend_);
  backend_->BeginStep(batch_, *kv_);
  backend_->Embed(*table_, x_);
  layer.Attention(layer_spec(), weights_, kLayer, x_, *scratch_);
  layer.Route(layer_spec(), weights_, x_, *scratch_);
  const std::vector<float> before = Values(x_);
  layer.Experts(weights_, x_, *scratch_);
  const std::vector<float> together = Values(x_);

  RoutingTable table;
  backend_->Download(*scratch_->routing, table);
  std::vector<float> sum(before.size(), 0.0f);
  for (int64_t expert = 0; expert < table.num_experts; ++expert) {
    backend_->Upload(before, x_);
    table.GroupByExpert(expert, expert + 1);
    backend_->Upload(table, *scratch_->routing);
    layer.Experts(weights_, x_, *scratch_);
    const std::vector<float> with_expert = Values(x_);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += with_expert[i] - before[i];
  }
  backend_->EndStep();
  for (size_t i = 0; i < sum.size(); ++i) {
    EXPECT_NEAR(before[i] + sum[i], together[i], 1e-5f);
  }
}

TEST_P(DecoderLayerOn, OnlyTheExpertsWithSlotsMustBeThere) {
  const DecoderLayer layer(*backend_);
  backend_->BeginStep(batch_, *kv_);
  backend_->Embed(*table_, x_);
  layer.Route(layer_spec(), weights_, x_, *scratch_);
  const std::vector<float> before = Values(x_);
  RoutingTable table;
  backend_->Download(*scratch_->routing, table);
  table.GroupByExpert(2, 4);
  backend_->Upload(table, *scratch_->routing);
  layer.Experts(weights_, x_, *scratch_);
  const std::vector<float> expected = Values(x_);

  weights_.experts = LoadExperts(*checkpoint_, kLayer, 2, 4, *backend_);
  backend_->Upload(before, x_);
  layer.Experts(weights_, x_, *scratch_);
  backend_->EndStep();
  EXPECT_EQ(Values(x_), expected);
  EXPECT_NE(expected, before);
}

}  // namespace
}  // namespace nibble
