#include "model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "backend/make_backend.h"
#include "model/batch_builder.h"
#include "nibble/error.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using testing::ExpertSpelling;
using testing::RandomMixtral;
using testing::RandomTokens;
using testing::TemporaryDirectory;

// A random model on disk and in memory.
struct Loaded {
  explicit Loaded(const RandomMixtral& random, const std::string& backend_name = "reference",
                  int threads = 1, int64_t max_tokens = 64) {
    testing::WriteRandomMixtral(random, directory.path());
    checkpoint = std::make_unique<Checkpoint>(directory.path());
    backend = MakeBackend(backend_name, {.threads = threads, .instruction_set = {}});
    model = std::make_unique<Model>(*checkpoint, *backend, max_tokens);
  }

  TemporaryDirectory directory;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
};

// Runs a sequence in chunks of the given sizes over blocks in an order of the caller's, and returns
// the logits of all rows.
std::vector<float> Logits(Model& model, std::span<const int32_t> tokens,
                          std::vector<int64_t> chunks = {}, std::vector<int32_t> blocks = {},
                          int64_t block_size = 16, int64_t pool_blocks = 64) {
  if (chunks.empty()) chunks = {static_cast<int64_t>(tokens.size())};
  if (blocks.empty()) {
    blocks.resize(BlocksFor(static_cast<int64_t>(tokens.size()), block_size));
    std::iota(blocks.begin(), blocks.end(), 0);
  }
  const auto kv = model.MakeKvPages(pool_blocks, DType::kF32, block_size);
  std::vector<float> all;
  std::vector<float> logits;
  int64_t done = 0;
  for (const int64_t count : chunks) {
    BatchBuilder builder;
    builder.Add(tokens.subspan(done, count), done, blocks, 0);
    model.Forward(builder.Take(), *kv, logits);
    all.insert(all.end(), logits.begin(), logits.end());
    done += count;
  }
  EXPECT_EQ(done, static_cast<int64_t>(tokens.size()));
  return all;
}

// The model once more, without batches, pages or fused ops: whole matrices of doubles, a mask, a
// loop over all experts with zero weights for those not chosen.
class NaiveMixtral {
 public:
  explicit NaiveMixtral(const Checkpoint& checkpoint)
      : checkpoint_(checkpoint), config_(checkpoint.config()) {}

  using Matrix = std::vector<std::vector<double>>;

  Matrix Logits(std::span<const int32_t> tokens) const {
    const Matrix table = Weight("model.embed_tokens");
    Matrix x;
    for (const int32_t token : tokens) x.push_back(table[token]);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer);
      Add(x, SelfAttention(Norm(x, prefix + ".input_layernorm"), prefix + ".self_attn."));
      Add(x, Experts(Norm(x, prefix + ".post_attention_layernorm"), prefix));
    }
    return Times(Norm(x, "model.norm"), config_.tie_word_embeddings ? table : Weight("lm_head"));
  }

 private:
  Matrix Weight(const std::string& module) const {
    const TensorView view = checkpoint_.Get(module + ".weight");
    const std::vector<float> values = ToFloat(view);
    const int64_t cols = view.shape()[view.shape().rank() - 1];
    Matrix rows;
    for (size_t begin = 0; begin < values.size(); begin += static_cast<size_t>(cols)) {
      rows.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(begin),
                        values.begin() + static_cast<std::ptrdiff_t>(begin) + cols);
    }
    return rows;
  }

  static double Dot(const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }

  static Matrix Times(const Matrix& x, const Matrix& weight) {
    Matrix out;
    for (const auto& row : x) {
      out.emplace_back();
      for (const auto& w : weight) out.back().push_back(Dot(row, w));
    }
    return out;
  }

  static void Add(Matrix& x, const Matrix& y) {
    for (size_t i = 0; i < x.size(); ++i) {
      for (size_t j = 0; j < x[i].size(); ++j) x[i][j] += y[i][j];
    }
  }

  Matrix Norm(Matrix x, const std::string& module) const {
    const std::vector<double> weight = Weight(module).front();
    for (auto& row : x) {
      const double mean = Dot(row, row) / static_cast<double>(row.size());
      for (size_t j = 0; j < row.size(); ++j) {
        row[j] *= weight[j] / std::sqrt(mean + config_.rms_norm_eps);
      }
    }
    return x;
  }

  // Head `head` of x, rotated as a complex number for each pair (i, i + half).
  Matrix RotatedHead(const Matrix& x, int64_t head) const {
    const size_t dim = static_cast<size_t>(config_.head_dim);
    const size_t begin = static_cast<size_t>(head) * dim;
    Matrix out(x.size(), std::vector<double>(dim));
    for (size_t position = 0; position < x.size(); ++position) {
      for (size_t i = 0; i < dim / 2; ++i) {
        const double angle =
            static_cast<double>(position) *
            std::pow(config_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const double a = x[position][begin + i];
        const double b = x[position][begin + i + dim / 2];
        out[position][i] = a * std::cos(angle) - b * std::sin(angle);
        out[position][i + dim / 2] = a * std::sin(angle) + b * std::cos(angle);
      }
    }
    return out;
  }

  Matrix SelfAttention(const Matrix& x, const std::string& prefix) const {
    const Matrix q = Times(x, Weight(prefix + "q_proj"));
    const Matrix k = Times(x, Weight(prefix + "k_proj"));
    const Matrix v = Times(x, Weight(prefix + "v_proj"));
    const size_t dim = static_cast<size_t>(config_.head_dim);
    Matrix attended(x.size());
    for (int64_t head = 0; head < config_.num_heads; ++head) {
      const int64_t kv_head = head * config_.num_kv_heads / config_.num_heads;
      const Matrix scores = Times(RotatedHead(q, head), RotatedHead(k, kv_head));
      for (size_t i = 0; i < x.size(); ++i) {
        std::vector<double> weights(x.size(), 0.0);
        double total = 0;
        for (size_t j = 0; j <= i; ++j) {
          const bool in_window =
              config_.sliding_window == 0 || i - j < static_cast<size_t>(config_.sliding_window);
          if (!in_window) continue;
          weights[j] = std::exp(scores[i][j] / std::sqrt(static_cast<double>(dim)));
          total += weights[j];
        }
        for (size_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (size_t j = 0; j <= i; ++j) {
            sum += weights[j] / total * v[j][static_cast<size_t>(kv_head) * dim + d];
          }
          attended[i].push_back(sum);
        }
      }
    }
    return Times(attended, Weight(prefix + "o_proj"));
  }

  Matrix Experts(const Matrix& h, const std::string& prefix) const {
    const std::string moe = prefix + ".block_sparse_moe.";
    const Matrix logits = Times(h, Weight(moe + "gate"));
    Matrix out(h.size(), std::vector<double>(h.front().size(), 0.0));
    for (int64_t expert = 0; expert < config_.num_experts; ++expert) {
      const std::string name = moe + "experts." + std::to_string(expert) + ".";
      Matrix gate = Times(h, Weight(name + "w1"));
      const Matrix up = Times(h, Weight(name + "w3"));
      for (size_t t = 0; t < h.size(); ++t) {
        for (size_t i = 0; i < gate[t].size(); ++i) {
          gate[t][i] = gate[t][i] / (1 + std::exp(-gate[t][i])) * up[t][i];
        }
      }
      const Matrix down = Times(gate, Weight(name + "w2"));
      for (size_t t = 0; t < h.size(); ++t) {
        std::vector<double> sorted = logits[t];
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        sorted.resize(config_.num_experts_per_token);
        const double own = logits[t][expert];
        if (own < sorted.back()) continue;
        double total = 0;
        for (const double logit : sorted) total += std::exp(logit);
        for (size_t i = 0; i < out[t].size(); ++i) out[t][i] += std::exp(own) / total * down[t][i];
      }
    }
    return out;
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
};

void ExpectClose(const std::vector<float>& actual, const NaiveMixtral::Matrix& expected,
                 double tolerance) {
  size_t index = 0;
  double error = 0;
  double norm = 0;
  for (const auto& row : expected) {
    for (const double value : row) {
      ASSERT_LT(index, actual.size());
      const double difference = static_cast<double>(actual[index++]) - value;
      error += difference * difference;
      norm += value * value;
    }
  }
  ASSERT_EQ(index, actual.size());
  EXPECT_LE(std::sqrt(error / norm), tolerance);
}

RandomMixtral Shaped(const std::function<void(RandomMixtral&)>& edit) {
  RandomMixtral random;
  edit(random);
  return random;
}

struct ShapeCase {
  const char* name;
  RandomMixtral random;
};

void PrintTo(const ShapeCase& shape, std::ostream* out) { *out << shape.name; }

class ModelShapes : public ::testing::TestWithParam<ShapeCase> {};

TEST_P(ModelShapes, ReferenceEqualsTheNaiveModel) {
  const Loaded loaded(GetParam().random);
  const auto tokens = RandomTokens(37, loaded.model->spec().vocab_size, 11);
  ExpectClose(Logits(*loaded.model, tokens), NaiveMixtral(*loaded.checkpoint).Logits(tokens), 2e-6);
}

TEST_P(ModelShapes, CpuEqualsTheReference) {
  const Loaded loaded(GetParam().random);
  const Loaded cpu(GetParam().random, "cpu", 2);
  const auto tokens = RandomTokens(37, loaded.model->spec().vocab_size, 11);
  ExpectClose(Logits(*cpu.model, tokens), NaiveMixtral(*loaded.checkpoint).Logits(tokens), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Models, ModelShapes,
    ::testing::Values(
        ShapeCase{"odd", {}},
        ShapeCase{"sliding_window", Shaped([](RandomMixtral& r) { r.sliding_window = 7; })},
        ShapeCase{"tied", Shaped([](RandomMixtral& r) { r.tie_word_embeddings = true; })},
        ShapeCase{"float32", Shaped([](RandomMixtral& r) { r.dtype = DType::kF32; })},
        ShapeCase{"float16", Shaped([](RandomMixtral& r) { r.dtype = DType::kF16; })},
        ShapeCase{"all_experts", Shaped([](RandomMixtral& r) { r.num_experts_per_token = 5; })},
        ShapeCase{"one_expert", Shaped([](RandomMixtral& r) {
                    r.num_experts = 1;
                    r.num_experts_per_token = 1;
                  })},
        ShapeCase{"many_experts", Shaped([](RandomMixtral& r) {
                    r.num_experts = 19;
                    r.num_experts_per_token = 4;
                  })},
        ShapeCase{"one_kv_head", Shaped([](RandomMixtral& r) { r.num_kv_heads = 1; })},
        ShapeCase{"no_grouping", Shaped([](RandomMixtral& r) { r.num_kv_heads = 6; })},
        ShapeCase{"head_dim_from_hidden", Shaped([](RandomMixtral& r) { r.head_dim = 8; })},
        ShapeCase{"long_rope", Shaped([](RandomMixtral& r) { r.rope_theta = 1e6; })}),
    [](const auto& test) { return std::string(test.param.name); });

class ModelOn : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, ModelOn, ::testing::Values("reference", "cpu"));

TEST_P(ModelOn, LogitsDoNotDependOnTheSpellingOfTheExperts) {
  RandomMixtral random;
  const auto tokens = RandomTokens(20, random.vocab_size, 3);
  const std::vector<float> published = Logits(*Loaded(random, GetParam()).model, tokens);
  random.spelling = ExpertSpelling::kProjections;
  EXPECT_EQ(Logits(*Loaded(random, GetParam()).model, tokens), published);
  random.spelling = ExpertSpelling::kFused;
  EXPECT_EQ(Logits(*Loaded(random, GetParam()).model, tokens), published);
}

TEST_P(ModelOn, PackedExpertsAreFoundUnderBothNames) {
  RandomMixtral random;
  random.bits = 4;
  const auto tokens = RandomTokens(20, random.vocab_size, 3);
  const std::vector<float> published = Logits(*Loaded(random, GetParam()).model, tokens);
  random.spelling = ExpertSpelling::kProjections;
  EXPECT_EQ(Logits(*Loaded(random, GetParam()).model, tokens), published);
}

TEST_P(ModelOn, ChunkedPrefillEqualsWholePrefill) {
  const Loaded loaded(RandomMixtral{.sliding_window = 21}, GetParam());
  const auto tokens = RandomTokens(50, loaded.model->spec().vocab_size, 5);
  const std::vector<float> whole = Logits(*loaded.model, tokens);
  EXPECT_EQ(Logits(*loaded.model, tokens, {16, 16, 18}), whole);
  EXPECT_EQ(Logits(*loaded.model, tokens, {1, 1, 30, 17, 1}), whole);
  EXPECT_EQ(Logits(*loaded.model, tokens, std::vector<int64_t>(50, 1)), whole);
}

TEST_P(ModelOn, ShuffledAndOddBlocksEqualContiguousOnes) {
  const Loaded loaded({}, GetParam());
  const auto tokens = RandomTokens(50, loaded.model->spec().vocab_size, 5);
  const std::vector<float> contiguous = Logits(*loaded.model, tokens);
  EXPECT_EQ(Logits(*loaded.model, tokens, {20, 30}, {9, 2, 31, 0}), contiguous);
  EXPECT_EQ(Logits(*loaded.model, tokens, {20, 30}, {4, 3, 2, 1, 0, 7, 5}, 8, 8), contiguous);
  EXPECT_EQ(Logits(*loaded.model, tokens, {20, 30}, {3, 1}, 32, 4), contiguous);
}

TEST_P(ModelOn, EverySequenceOfABatchEqualsItselfAlone) {
  const Loaded loaded({}, GetParam());
  Model& model = *loaded.model;
  const int64_t vocab = model.spec().vocab_size;
  std::vector<std::vector<int32_t>> sequences;
  for (const int64_t length : {1, 17, 3, 16, 9}) {
    sequences.push_back(RandomTokens(length, vocab, static_cast<uint64_t>(length)));
  }
  BatchBuilder builder;
  const auto kv = model.MakeKvPages(16);
  int32_t block = 0;
  for (const auto& sequence : sequences) {
    builder.Add(sequence, 0, std::vector<int32_t>{block, block + 1}, 0);
    block += 2;
  }
  std::vector<float> together;
  model.Forward(builder.Take(), *kv, together);
  std::vector<float> alone;
  for (const auto& sequence : sequences) {
    const auto logits = Logits(model, sequence);
    alone.insert(alone.end(), logits.begin(), logits.end());
  }
  EXPECT_EQ(together, alone);
}

TEST_P(ModelOn, LogitsComeOnlyForTheRowsAskedFor) {
  const Loaded loaded({}, GetParam());
  Model& model = *loaded.model;
  const size_t vocab = static_cast<size_t>(model.spec().vocab_size);
  const auto tokens = RandomTokens(9, model.spec().vocab_size, 5);
  const std::vector<float> all = Logits(model, tokens);
  BatchBuilder builder;
  builder.Add(tokens, 0, std::vector<int32_t>{0}, static_cast<int64_t>(tokens.size()));
  Batch batch = builder.Take();
  batch.logit_rows = {2, 8};
  const auto kv = model.MakeKvPages(1);
  std::vector<float> some;
  model.Forward(batch, *kv, some);
  ASSERT_EQ(some.size(), 2 * vocab);
  EXPECT_TRUE(std::equal(some.begin(), some.begin() + static_cast<std::ptrdiff_t>(vocab),
                         all.begin() + static_cast<std::ptrdiff_t>(2 * vocab)));
  EXPECT_TRUE(std::equal(some.begin() + static_cast<std::ptrdiff_t>(vocab), some.end(),
                         all.begin() + static_cast<std::ptrdiff_t>(8 * vocab)));
}

TEST_P(ModelOn, NamesTheLayerWhoseOutputIsNotFinite) {
  RandomMixtral random;
  random.num_layers = 3;
  random.edit = [](const std::string& name, std::vector<float>& values) {
    // Finite weights whose product overflows.
    const bool chosen =
        name.find("layers.1.") != std::string::npos &&
        (name.find(".w2.") != std::string::npos || name.find(".w3.") != std::string::npos);
    if (!chosen) return;
    for (float& value : values) value = 3e37f;
  };
  const Loaded loaded(random, GetParam());
  Model& model = *loaded.model;
  const auto kv = model.MakeKvPages(2);
  BatchBuilder builder;
  builder.Add(RandomTokens(5, random.vocab_size, 5), 0, std::vector<int32_t>{0}, 4);
  const Batch batch = builder.Take();
  std::vector<float> logits;
  for (int round = 0; round < 2; ++round) {  // the model is usable afterwards
    model.Forward(batch, *kv, logits);
    EXPECT_FALSE(std::isfinite(logits.front()));
    const Error error = model.Explain(batch, *kv, batch.logit_rows);
    EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("model.layers.1:"));
  }
}

TEST_P(ModelOn, ABrokenSequenceSpoilsNoOther) {
  const Loaded loaded(testing::BrokenForTokenSeven(), GetParam());
  Model& model = *loaded.model;
  const std::vector<int32_t> good = {1, 20, 30}, bad = {1, 7, 30};
  const std::vector<float> alone = Logits(model, good);
  BatchBuilder builder;
  builder.Add(bad, 0, std::vector<int32_t>{0}, 0);
  builder.Add(good, 0, std::vector<int32_t>{1}, 0);
  const auto kv = model.MakeKvPages(2);
  std::vector<float> logits;
  model.Forward(builder.Take(), *kv, logits);
  const auto vocab = static_cast<std::ptrdiff_t>(model.spec().vocab_size);
  // From the broken token on: the later one attends to it.
  EXPECT_TRUE(std::none_of(logits.begin() + vocab, logits.begin() + 3 * vocab,
                           [](float x) { return std::isfinite(x); }));
  EXPECT_EQ(std::vector<float>(logits.begin() + 3 * vocab, logits.end()), alone);
}

TEST_P(ModelOn, RefusesTokensOutsideTheVocabulary) {
  const Loaded loaded({}, GetParam());
  for (const int32_t token : {-1, 101, std::numeric_limits<int32_t>::max()}) {
    try {
      Logits(*loaded.model, std::vector<int32_t>{1, token});
      FAIL() << token << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(token)));
    }
  }
}

TEST(Model, CpuLogitsDoNotDependOnTheNumberOfThreads) {
  for (const int bits : {0, 4}) {
    RandomMixtral random;
    random.bits = bits;
    const auto tokens = RandomTokens(33, random.vocab_size, 3);
    const std::vector<float> one = Logits(*Loaded(random, "cpu", 1).model, tokens);
    EXPECT_EQ(Logits(*Loaded(random, "cpu", 2).model, tokens), one);
    EXPECT_EQ(Logits(*Loaded(random, "cpu", 5).model, tokens), one);
  }
}

TEST(Model, Bf16PagesRoundKeysAndValues) {
  const Loaded loaded({});
  Model& model = *loaded.model;
  const auto tokens = RandomTokens(20, model.spec().vocab_size, 5);
  const std::vector<float> exact = Logits(model, tokens);
  const auto kv = model.MakeKvPages(2, DType::kBF16);
  BatchBuilder builder;
  builder.Add(tokens, 0, std::vector<int32_t>{1, 0}, 0);
  std::vector<float> rounded;
  model.Forward(builder.Take(), *kv, rounded);
  EXPECT_NE(rounded, exact);
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(static_cast<double>(exact[i] - rounded[i]), 2);
    norm += std::pow(static_cast<double>(exact[i]), 2);
  }
  EXPECT_LT(std::sqrt(error / norm), 0x1p-7);
}

}  // namespace
}  // namespace nibble
