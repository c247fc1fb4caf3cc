#include <algorithm>
#include <cmath>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/column_block.cuh"

namespace nibble::cuda::bench {
namespace {

struct BlockShape {
  int32_t rows;
  int64_t cols, first;
  int32_t columns, group_size;
};

class ColumnBlock final : public Problem {
 public:
  ColumnBlock(const BlockShape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    weights_ = random.F32(shape.rows * shape.cols, 1);
    factor_ = random.F32(shape.cols * shape.cols, 0.05);
    for (int64_t i = 0; i < shape.cols; ++i) {
      factor_[static_cast<size_t>(i * shape.cols + i)] = static_cast<float>(0.5 + random.Uniform());
    }
    for (int64_t i = 0; i < shape.rows * (shape.cols / shape.group_size); ++i) {
      scales_.push_back(static_cast<float>(0.2 + 0.2 * random.Uniform()));
    }
    codes_.assign(weights_.size(), 99);
    losses_ = random.F32(shape.rows, 1);
    args_.weights = Input("weights", weights_);
    args_.factor = Input("factor", factor_);
    args_.scales = Input("scales", scales_);
    // A weight near the midpoint of two codes may round to either.
    args_.codes = InOut("codes", codes_, 5e-3);
    args_.errors = Output<float>("errors", static_cast<size_t>(shape.rows) * kBlockColumns, 5e-3);
    args_.losses = InOut("losses", losses_, 5e-3);
    args_.cols = shape.cols;
    args_.first = shape.first;
    args_.rows = shape.rows;
    args_.columns = shape.columns;
    args_.group_size = shape.group_size;
    bytes_ = static_cast<double>(shape.rows) * shape.columns * 9;
    operations_ = static_cast<double>(shape.rows) * shape.columns * shape.columns;
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchColumnBlock(args_, stream); }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    expected["codes"].assign(codes_.begin(), codes_.end());
    expected["errors"].assign(static_cast<size_t>(shape_.rows) * kBlockColumns, NAN);
    const auto at = [this](int64_t row, int64_t col) {
      return static_cast<size_t>(row * shape_.cols + col);
    };
    for (int64_t row = 0; row < shape_.rows; ++row) {
      Doubles w;
      for (int64_t i = 0; i < shape_.columns; ++i) {
        w.push_back(static_cast<double>(weights_[at(row, shape_.first + i)]));
      }
      double loss = static_cast<double>(losses_[static_cast<size_t>(row)]);
      for (int64_t i = 0; i < shape_.columns; ++i) {
        const int64_t col = shape_.first + i;
        const int64_t group = row * (shape_.cols / shape_.group_size) + col / shape_.group_size;
        const double scale = static_cast<double>(scales_[static_cast<size_t>(group)]);
        double& now = w[static_cast<size_t>(i)];
        const double code = std::clamp(std::nearbyint(now / scale), -8.0, 7.0);
        const double error = (now - code * scale) / static_cast<double>(factor_[at(col, col)]);
        expected["codes"][at(row, col)] = code;
        expected["errors"][static_cast<size_t>(row * kBlockColumns + i)] = error;
        loss += error * error;
        for (int64_t j = i + 1; j < shape_.columns; ++j) {
          w[static_cast<size_t>(j)] -=
              error * static_cast<double>(factor_[at(col, shape_.first + j)]);
        }
      }
      expected["losses"].push_back(loss);
    }
  }

 private:
  BlockShape shape_;
  std::vector<float> weights_, factor_, scales_, losses_;
  std::vector<int8_t> codes_;
  ColumnBlockArgs args_ = {};
};

class Reverse final : public Problem {
 public:
  Reverse(int64_t count, uint64_t seed) {
    Random random(seed);
    values_ = random.F32(count, 1);
    device_ = InOut("values", values_, 0);
    bytes_ = 8.0 * static_cast<double>(count);
  }

  cudaError_t Launch(cudaStream_t stream) override {
    return LaunchReverse(device_, static_cast<int64_t>(values_.size()), stream);
  }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    expected["values"].assign(values_.rbegin(), values_.rend());
  }

 private:
  std::vector<float> values_;
  float* device_;
};

}  // namespace

std::vector<Case> ColumnBlockCases() {
  std::vector<Case> cases;
  for (const BlockShape& s : {BlockShape{1, 4, 0, 4, 4},
                              {67, 96, 32, 33, 32},
                              {70, 256, 128, 128, 128},
                              {4096, 1024, 128, 128, 128},
                              {32768, 1024, 128, 128, 128}}) {
    AddCase<ColumnBlock>(cases, "column_block", Name({s.rows, s.columns}), s, s.rows < 4096);
  }
  for (const int64_t count : {1, 2, 7, 1025, 6144 * 6144}) {
    AddCase<Reverse>(cases, "reverse", Name({count}), count, count < 6144);
  }
  return cases;
}

}  // namespace nibble::cuda::bench
