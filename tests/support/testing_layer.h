#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/make_backend.h"

// For tests of backends: random weights of any format, and a whole decoder layer run op by op that
// keeps all intermediate results, so that two backends, or two ways of batching, can be compared.
namespace nibble::testing {

// How the Linears of a layer are stored.
struct WeightFormat {
  DType dtype = DType::kBF16;  // of dense values, or of the scales
  int bits = 0;                // 0: dense
  int64_t group_size = 128;    // 0: one group a row
  bool symmetric = true;
  bool act_order = false;  // a group index that is not in order

  std::string ToString() const;
};

struct LayerShape {
  int64_t hidden = 64;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 2;
  int64_t head_dim = 16;
  int64_t num_experts = 4;
  int64_t top_k = 2;
  int64_t intermediate = 96;
  int64_t vocab = 77;
};

// What a layer may have beside attention and experts. Where `shape.num_experts` is 0 it is dense.
struct LayerExtras {
  bool qkv_bias = false;
  bool out_bias = false;
  bool qk_norm = false;
  bool sinks = false;
  int64_t rotary_dim = 0;  // 0: head_dim
  float rotary_factor = 1;
  float scale = 0;
  RouterScore score = RouterScore::kSoftmax;
  bool renormalise = true;
  float router_scale = 1;
  bool correction = false;
  int64_t shared_intermediate = 0;
  bool shared_gate = false;
};

// A sequence in a step: `cached` tokens are in its pages already, `fresh` ones are new.
struct SequenceStep {
  int64_t cached = 0;
  int64_t fresh = 1;
};

struct LayerCase {
  std::string name = {};
  LayerShape shape = {};
  WeightFormat format = {};
  DType kv_dtype = DType::kF32;
  int64_t block_size = 16;
  int64_t sliding_window = 0;
  std::vector<SequenceStep> sequences = {{0, 5}};
  LayerExtras extras = {};

  friend void PrintTo(const LayerCase& layer_case, std::ostream* out) { *out << layer_case.name; }
};

// Everything a layer computes, a row a token of the last step (a row a slot for `middle`).
struct LayerResult {
  std::vector<float> normed, queries, attended, after_attention, expert_input, router_logits,
      expert_weights, middle, output, logits;
  std::vector<int32_t> experts;
};

// Host values of a weight; view() borrows.
struct HostWeight {
  std::unique_ptr<Tensor> dense;
  std::unique_ptr<PackedTensor> packed;

  WeightView view() const;
};
HostWeight RandomWeight(const WeightFormat& format, int64_t rows, int64_t cols, uint64_t seed);

// Uniform in [-1, 1), a function of (seed, index).
std::vector<float> RandomValues(int64_t count, uint64_t seed);

// The weights of one layer, an embedding and a head, the same for every backend.
class TestLayer {
 public:
  explicit TestLayer(const LayerCase& layer_case);

  // LayerOnBackend(*this, backend, only) and one step.
  LayerResult Run(Backend& backend, int only = -1) const;

  // The hidden states behind the layer of the fresh tokens [tokens, hidden], by plain loops in
  // double that know no backend, pages, steps or slots.
  std::vector<float> NaiveOutput() const;

 private:
  friend class LayerOnBackend;

  LayerCase case_;
  HostWeight embedding_, attention_norm_, q_, k_, v_, o_, expert_norm_, router_, head_norm_, head_;
  std::vector<HostWeight> gate_, up_, down_;  // of each expert, or of the MLP
  HostWeight q_bias_, k_bias_, v_bias_, out_bias_, q_norm_, k_norm_, sinks_, correction_;
  HostWeight shared_gate_up_[2], shared_down_, shared_gate_;
  AttentionShape attention_shape_;
  RouterShape router_shape_;
};

// A layer prepared on a backend, the cached tokens of the sequences in its pages. Tokens, positions
// and page numbers are functions of the case, so that results of different backends can be
// compared. With `only` >= 0 that sequence is alone. Borrows both arguments.
class LayerOnBackend {
 public:
  LayerOnBackend(const TestLayer& layer, Backend& backend, int only = -1);

  // Runs the fresh tokens through all ops; may be repeated. `result` may be null.
  void RunStep(LayerResult* result);

 private:
  const Weight* Prepare(std::span<const HostWeight* const> parts, Role role);
  const Weight* Prepare(const HostWeight& weight, Role role);

  Backend& backend_;
  LayerCase case_;
  Batch batch_;
  std::vector<std::unique_ptr<Weight>> weights_;
  const Weight* embedding_ = nullptr;
  AttentionShape attention_shape_;
  RouterShape router_shape_;
  AttentionWeights attention_;
  RouterWeights router_;
  ExpertWeights experts_;
  ExpertWeights shared_;  // null: none
  const Weight* shared_gate_ = nullptr;
  HeadWeights head_;
  std::unique_ptr<KvPages> kv_;
  Activation x_, normed_, q_, attended_, h_, g_;
  std::unique_ptr<Routing> routing_;
  std::unique_ptr<LogitRows> logits_;
};

// ||a - b|| / ||b||; infinity where one is not finite.
double RelativeError(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace nibble::testing
