#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/moe.cuh"
#include "backend/cuda/pages.h"

namespace nibble::cuda::bench {
namespace {

constexpr double kAny = std::numeric_limits<double>::quiet_NaN();

struct RouterShape {
  int32_t rows, hidden, experts, top_k;
  bool ties = false;     // experts in pairs with the same weights
  bool padding = false;  // every third row
};

class Router final : public Problem {
 public:
  Router(const RouterShape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    h_ = random.Bf16(int64_t{shape.rows} * shape.hidden, 1);
    router_ = random.Bf16(int64_t{shape.experts} * shape.hidden, 1 / std::sqrt(shape.hidden));
    for (int32_t e = 1; shape.ties && e < shape.experts; e += 2) {
      std::copy_n(router_.begin() + (e - 1) * shape.hidden, shape.hidden,
                  router_.begin() + e * shape.hidden);
    }
    for (int32_t row = 0; row < shape.rows; ++row) {
      sequences_.push_back(shape.padding && row % 3 == 0 ? kPaddingRow : row);
    }
    const auto rows = static_cast<size_t>(shape.rows);
    const auto top_k = static_cast<size_t>(shape.top_k);
    args_.h = Input("h", h_);
    args_.router = Input("router", router_);
    args_.sequences = shape.padding ? Input("sequences", sequences_) : nullptr;
    args_.logits = Output<float>("logits", rows * static_cast<size_t>(shape.experts), 1e-5);
    args_.experts = Output<int32_t>("experts", rows * top_k, 0);
    args_.weights = Output<float>("weights", rows * top_k, 1e-5);
    args_.rows = shape.rows;
    args_.hidden = shape.hidden;
    args_.num_experts = shape.experts;
    args_.top_k = shape.top_k;
    args_.round_logits = false;
    bytes_ = 2.0 * static_cast<double>(h_.size() + router_.size());
    operations_ = 2.0 * static_cast<double>(h_.size()) * shape.experts;
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchRouter(args_, stream); }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    const auto hidden = static_cast<size_t>(shape_.hidden);
    const auto num_experts = static_cast<size_t>(shape_.experts);
    const auto top_k = static_cast<size_t>(shape_.top_k);
    for (size_t row = 0; row < static_cast<size_t>(shape_.rows); ++row) {
      Doubles logits(num_experts);
      for (size_t e = 0; e < num_experts; ++e) {
        for (size_t i = 0; i < hidden; ++i) {
          logits[e] += ToDouble(h_[row * hidden + i]) * ToDouble(router_[e * hidden + i]);
        }
        expected["logits"].push_back(logits[e]);
      }
      std::vector<size_t> order(num_experts);
      std::iota(order.begin(), order.end(), size_t{0});
      std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
      });
      // False where fp32 may order two logits differently: then that row is not compared.
      bool sure = true;
      for (size_t j = 0; j < top_k && j + 1 < num_experts; ++j) {
        const double gap = logits[order[j]] - logits[order[j + 1]];
        sure = sure && (gap == 0 || gap > 1e-4);
      }
      double total = 0;
      for (size_t j = 0; j < top_k; ++j) total += std::exp(logits[order[j]] - logits[order[0]]);
      const bool padding = shape_.padding && sequences_[row] == kPaddingRow;
      for (size_t j = 0; j < top_k; ++j) {
        const double weight = std::exp(logits[order[j]] - logits[order[0]]) / total;
        expected["experts"].push_back(padding ? -1 : sure ? static_cast<double>(order[j]) : kAny);
        expected["weights"].push_back(padding ? 0 : sure ? weight : kAny);
      }
    }
  }

 private:
  RouterShape shape_;
  std::vector<__nv_bfloat16> h_, router_;
  std::vector<int32_t> sequences_;
  RouterArgs args_ = {};
};

struct SortShape {
  int32_t pairs, experts, tile_rows;
  double skew = 0;     // share of pairs sent to expert 0 in addition to its own
  double padding = 0;  // share of pairs without an expert
};

class MoeSort final : public Problem {
 public:
  MoeSort(const SortShape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    for (int32_t p = 0; p < shape.pairs; ++p) {
      int32_t expert = static_cast<int32_t>(random.Below(shape.experts));
      if (random.Uniform() < shape.skew) expert = 0;
      experts_.push_back(random.Uniform() < shape.padding ? -1 : expert);
    }
    const auto pairs = static_cast<size_t>(shape.pairs);
    const auto tiles = static_cast<size_t>(MaxTiles(shape.pairs, shape.experts, shape.tile_rows));
    args_.experts = Input("experts", experts_);
    args_.offsets = Output<int32_t>("offsets", static_cast<size_t>(shape.experts) + 1, 0);
    args_.pair_of_row = Output<int32_t>("pair_of_row", pairs, 0);
    args_.row_of_pair = Output<int32_t>("row_of_pair", pairs, 0);
    args_.tile_expert = Output<int32_t>("tile_expert", tiles, 0);
    args_.tile_first_row = Output<int32_t>("tile_first_row", tiles, 0);
    args_.pairs = shape.pairs;
    args_.num_experts = shape.experts;
    args_.tile_rows = shape.tile_rows;
    bytes_ = 12.0 * shape.pairs;
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchMoeSort(args_, stream); }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    std::vector<int32_t> pairs;
    for (int32_t p = 0; p < shape_.pairs; ++p) {
      if (experts_[static_cast<size_t>(p)] >= 0) pairs.push_back(p);
    }
    const auto expert_of = [&](int32_t p) { return experts_[static_cast<size_t>(p)]; };
    std::sort(pairs.begin(), pairs.end(), [&](int32_t a, int32_t b) {
      return expert_of(a) != expert_of(b) ? expert_of(a) < expert_of(b) : a < b;
    });
    Doubles& pair_of_row = expected["pair_of_row"] = Doubles(experts_.size(), -1);
    Doubles& row_of_pair = expected["row_of_pair"] = Doubles(experts_.size(), -1);
    for (size_t row = 0; row < pairs.size(); ++row) {
      pair_of_row[row] = pairs[row];
      row_of_pair[static_cast<size_t>(pairs[row])] = static_cast<double>(row);
    }
    for (int32_t e = 0; e <= shape_.experts; ++e) {
      const auto first = std::partition_point(pairs.begin(), pairs.end(),
                                              [&](int32_t p) { return expert_of(p) < e; });
      expected["offsets"].push_back(static_cast<double>(first - pairs.begin()));
    }
    const auto tiles =
        static_cast<size_t>(MaxTiles(shape_.pairs, shape_.experts, shape_.tile_rows));
    const Doubles& offsets = expected["offsets"];
    for (size_t e = 0; e < static_cast<size_t>(shape_.experts); ++e) {
      for (double row = offsets[e]; row < offsets[e + 1]; row += shape_.tile_rows) {
        expected["tile_expert"].push_back(static_cast<double>(e));
        expected["tile_first_row"].push_back(row);
      }
    }
    expected["tile_expert"].resize(std::max(tiles, expected["tile_expert"].size()), -1);
    expected["tile_first_row"].resize(std::max(tiles, expected["tile_first_row"].size()), -1);
  }

 private:
  SortShape shape_;
  std::vector<int32_t> experts_;
  MoeSortArgs args_ = {};
};

struct GatherShape {
  int32_t rows, cols, top_k;
};

class GatherRows final : public Problem {
 public:
  GatherRows(const GatherShape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    x_ = random.Bf16(int64_t{(shape.rows + shape.top_k - 1) / shape.top_k} * shape.cols, 1);
    for (int32_t r = 0; r < shape.rows; ++r) {
      pairs_.push_back(r % 7 == 6 ? -1 : static_cast<int32_t>(random.Below(shape.rows)));
    }
    args_.x = Input("x", x_);
    args_.pair_of_row = Input("pair_of_row", pairs_);
    args_.out = Output<__nv_bfloat16>("out", pairs_.size() * static_cast<size_t>(shape.cols), 0);
    args_.rows = shape.rows;
    args_.cols = shape.cols;
    args_.top_k = shape.top_k;
    bytes_ = 4.0 * shape.rows * shape.cols;
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchGatherRows(args_, stream); }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    const auto cols = static_cast<size_t>(shape_.cols);
    for (const int32_t pair : pairs_) {
      for (size_t i = 0; i < cols; ++i) {
        expected["out"].push_back(
            pair < 0 ? 0 : ToDouble(x_[static_cast<size_t>(pair / shape_.top_k) * cols + i]));
      }
    }
  }

 private:
  GatherShape shape_;
  std::vector<__nv_bfloat16> x_;
  std::vector<int32_t> pairs_;
  GatherRowsArgs args_ = {};
};

}  // namespace

std::vector<Case> MoeCases() {
  std::vector<Case> cases;
  for (const RouterShape& s : {RouterShape{1, 32, 8, 2},
                               {5, 129, 8, 2},
                               {3, 40, 3, 3},
                               {4, 64, 16, 8},
                               {6, 96, 8, 2, true, false},
                               {7, 96, 8, 2, false, true},
                               {1, 6144, 8, 2},
                               {64, 6144, 8, 2},
                               {4096, 6144, 8, 2}}) {
    AddCase<Router>(cases, "router", Name({s.rows, s.hidden, s.experts, s.top_k}), s,
                    s.hidden < 6144);
  }
  for (const SortShape& s : {SortShape{2, 8, 8}, {8192, 8, 64, 0.4, 0}, {32768, 8, 128}}) {
    AddCase<MoeSort>(cases, "moe_sort", Name({s.pairs, s.experts, s.tile_rows}), s,
                     s.pairs <= 8192);
  }
  Random random(20);  // random shapes, ragged and skewed, some experts without rows
  for (int i = 0; i < 12; ++i) {
    const SortShape s{static_cast<int32_t>(random.Below(1500)),
                      static_cast<int32_t>(1 + random.Below(kMaxExperts)),
                      static_cast<int32_t>(1 + random.Below(130)), random.Uniform(),
                      i % 2 == 0 ? 0 : random.Uniform()};
    AddCase<MoeSort>(cases, "moe_sort", Name({s.pairs, s.experts, s.tile_rows}), s, true, false);
  }
  for (const GatherShape& s : {GatherShape{3, 5, 2}, {9, 264, 3}, {8192, 6144, 2}}) {
    AddCase<GatherRows>(cases, "gather_rows", Name({s.rows, s.cols, s.top_k}), s, s.cols < 6144);
  }
  return cases;
}

}  // namespace nibble::cuda::bench
