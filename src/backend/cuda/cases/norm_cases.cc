#include <cmath>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/norm.cuh"

namespace nibble::cuda::bench {
namespace {

struct NormShape {
  int32_t rows, hidden, pairs_per_row;  // pairs_per_row 0: nothing to add
};

class AddRmsNorm final : public Problem {
 public:
  AddRmsNorm(const NormShape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    const int64_t count = int64_t{shape.rows} * shape.hidden;
    x_ = random.Bf16(count, 2);
    weight_ = random.Bf16(shape.hidden, 0.3, 1);
    pairs_ = random.F32(count * shape.pairs_per_row, 1);
    // A sum near the midpoint of two bf16 values may round to either.
    args_.x =
        shape.pairs_per_row > 0 ? InOut("x", x_, 2e-3) : const_cast<__nv_bfloat16*>(Input("x", x_));
    args_.pairs = shape.pairs_per_row > 0 ? Input("pairs", pairs_) : nullptr;
    args_.weight = Input("weight", weight_);
    args_.normed =
        Output<__nv_bfloat16>("normed", x_.size(), 2e-3 + 2e-3 * (shape.pairs_per_row > 0));
    args_.rows = shape.rows;
    args_.hidden = shape.hidden;
    args_.pairs_per_row = shape.pairs_per_row;
    args_.eps = 1e-5f;
    bytes_ =
        static_cast<double>(count) * (shape.pairs_per_row > 0 ? 6 + 4 * shape.pairs_per_row : 4);
    operations_ = static_cast<double>(count) * (4 + shape.pairs_per_row);
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchAddRmsNorm(args_, stream); }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    const size_t hidden = static_cast<size_t>(shape_.hidden);
    const size_t pairs_per_row = static_cast<size_t>(shape_.pairs_per_row);
    Doubles x(x_.size()), normed(x_.size());
    for (size_t row = 0; row < static_cast<size_t>(shape_.rows); ++row) {
      double squares = 0;
      for (size_t i = 0; i < hidden; ++i) {
        double value = ToDouble(x_[row * hidden + i]);
        for (size_t j = 0; j < pairs_per_row; ++j) {
          value += static_cast<double>(pairs_[(row * pairs_per_row + j) * hidden + i]);
        }
        x[row * hidden + i] = RoundToBf16(value);
        squares += x[row * hidden + i] * x[row * hidden + i];
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(hidden) + 1e-5);
      for (size_t i = 0; i < hidden; ++i)
        normed[row * hidden + i] = x[row * hidden + i] * scale * ToDouble(weight_[i]);
    }
    expected["x"] = x;
    expected["normed"] = normed;
  }

 private:
  NormShape shape_;
  std::vector<__nv_bfloat16> x_, weight_;
  std::vector<float> pairs_;
  AddRmsNormArgs args_ = {};
};

}  // namespace

std::vector<Case> NormCases() {
  std::vector<Case> cases;
  for (const NormShape& s : {NormShape{1, 8, 0},
                             {3, 129, 2},
                             {5, 640, 1},
                             {0, 64, 0},
                             {1, 6144, 2},
                             {64, 6144, 2},
                             {4096, 6144, 2}}) {
    AddCase<AddRmsNorm>(cases, "add_rms_norm", Name({s.rows, s.hidden, s.pairs_per_row}), s,
                        s.hidden < 6144);
  }
  return cases;
}

}  // namespace nibble::cuda::bench
