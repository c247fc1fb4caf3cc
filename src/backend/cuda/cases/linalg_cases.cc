#include <algorithm>
#include <cmath>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/linalg_cuda.h"

namespace nibble::cuda::bench {
namespace {

class Gram final : public Problem {
 public:
  struct Shape {
    int64_t rows, cols;
  };

  Gram(const Shape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    x_ = random.Bf16(shape.rows * shape.cols, 1);
    h_ = random.F32(shape.cols * shape.cols, 1);
    cublasCreate(&handle_);
    device_x_ = Input("x", x_);
    device_h_ = InOut("h", h_, 1e-5);
    const auto cols = static_cast<double>(shape.cols);
    // Half of H, read and written.
    bytes_ = 2.0 * static_cast<double>(x_.size()) + 4 * cols * cols;
    operations_ = static_cast<double>(shape.rows) * cols * cols;
  }
  ~Gram() override { cublasDestroy(handle_); }

  cudaError_t Launch(cudaStream_t stream) override {
    cublasSetStream(handle_, stream);
    return GramUpdate(handle_, device_x_, shape_.rows, shape_.cols, device_h_) ==
                   CUBLAS_STATUS_SUCCESS
               ? cudaSuccess
               : cudaErrorInvalidValue;
  }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    const auto cols = static_cast<size_t>(shape_.cols);
    Doubles& h = expected["h"] = Doubles(h_.size(), NAN);
    for (size_t i = 0; i < cols; ++i) {
      for (size_t j = i; j < cols; ++j) {
        double sum = static_cast<double>(h_[i * cols + j]);
        for (size_t row = 0; row < static_cast<size_t>(shape_.rows); ++row) {
          sum += ToDouble(x_[row * cols + i]) * ToDouble(x_[row * cols + j]);
        }
        h[i * cols + j] = sum;
      }
    }
  }

 private:
  Shape shape_;
  std::vector<__nv_bfloat16> x_;
  std::vector<float> h_;
  cublasHandle_t handle_ = nullptr;
  const __nv_bfloat16* device_x_;
  float* device_h_;
};

// Checks that U^T U equals H^-1. The twin inverts H by Gauss-Jordan elimination, without any
// factor.
class Factor final : public Problem {
 public:
  Factor(int64_t n, uint64_t seed) : n_(n) {
    Random random(seed);
    // Symmetric with a dominant diagonal: positive definite. The kernel must not read below the
    // diagonal.
    h_ = random.F32(n * n, 1);
    const auto size = static_cast<size_t>(n);
    for (size_t i = 0; i < size; ++i) {
      std::fill_n(h_.begin() + static_cast<std::ptrdiff_t>(i * size), i, 1e30f);
      h_[i * size + i] = static_cast<float>(1 + random.Uniform() + 4 * std::sqrt(n));
    }
    cusolverDnCreate(&handle_);
    cusolverDnCreateParams(&params_);
    FactorWorkspaceSize(handle_, params_, n, &workspace_);
    device_input_ = Input("input", h_);
    device_h_ = Output<float>("h", h_.size(), 1e-4);
    info_ = Output<int32_t>("info", 2, 0);
    device_workspace_ = Scratch<int8_t>(workspace_.device_bytes);
    host_workspace_.resize(workspace_.host_bytes);
    bytes_ = 8.0 * static_cast<double>(n) * static_cast<double>(n);
    operations_ = 2.0 / 3 * std::pow(static_cast<double>(n), 3);
  }
  ~Factor() override {
    cusolverDnDestroyParams(params_);
    cusolverDnDestroy(handle_);
  }

  // The kernel works in place, so each launch copies the matrix first; the copy is included in the
  // time.
  cudaError_t Launch(cudaStream_t stream) override {
    const cudaError_t copied = cudaMemcpyAsync(device_h_, device_input_, h_.size() * sizeof(float),
                                               cudaMemcpyDeviceToDevice, stream);
    if (copied != cudaSuccess) return copied;
    return InverseCholesky(handle_, params_, device_h_, n_, device_workspace_,
                           host_workspace_.data(), workspace_, info_,
                           stream) == CUSOLVER_STATUS_SUCCESS
               ? cudaSuccess
               : cudaErrorInvalidValue;
  }

  // Factors the inverse row by row from the first; the upper factor of a matrix is unique.
  void Twin(std::map<std::string, Doubles>& expected) const override {
    const auto n = static_cast<size_t>(n_);
    Doubles a(n * n), inverse(n * n);
    for (size_t i = 0; i < n; ++i) {
      inverse[i * n + i] = 1;
      for (size_t j = 0; j < n; ++j) {
        a[i * n + j] = static_cast<double>(h_[std::min(i, j) * n + std::max(i, j)]);
      }
    }
    for (size_t pivot = 0; pivot < n; ++pivot) {  // Gauss-Jordan; H is positive definite
      const double scale = 1 / a[pivot * n + pivot];
      for (size_t j = 0; j < n; ++j) {
        a[pivot * n + j] *= scale;
        inverse[pivot * n + j] *= scale;
      }
      for (size_t i = 0; i < n; ++i) {
        const double times = a[i * n + pivot];
        for (size_t j = 0; i != pivot && j < n; ++j) {
          a[i * n + j] -= times * a[pivot * n + j];
          inverse[i * n + j] -= times * inverse[pivot * n + j];
        }
      }
    }
    Doubles& u = expected["h"] = Doubles(n * n, NAN);
    for (size_t i = 0; i < n; ++i) {  // inverse = U^T U
      for (size_t j = i; j < n; ++j) {
        double sum = inverse[i * n + j];
        for (size_t k = 0; k < i; ++k) sum -= u[k * n + i] * u[k * n + j];
        u[i * n + j] = i == j ? std::sqrt(sum) : sum / u[i * n + i];
      }
    }
    expected["info"] = {0, 0};
  }

 private:
  int64_t n_;
  std::vector<float> h_;
  cusolverDnHandle_t handle_ = nullptr;
  cusolverDnParams_t params_ = nullptr;
  FactorWorkspace workspace_;
  std::vector<std::byte> host_workspace_;
  const float* device_input_;
  float* device_h_;
  int32_t* info_;
  int8_t* device_workspace_;
};

class Spread final : public Problem {
 public:
  struct Shape {
    int64_t rows, cols, first, columns;
  };

  Spread(const Shape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    weights_ = random.F32(shape.rows * shape.cols, 1);
    factor_ = random.F32(shape.cols * shape.cols, 1);
    errors_ = random.F32(shape.rows * kBlockColumns, 1);
    cublasCreate(&handle_);
    device_errors_ = Input("errors", errors_);
    device_factor_ = Input("factor", factor_);
    device_weights_ = InOut("weights", weights_, 1e-5);
    const auto rest = static_cast<double>(shape.cols - shape.first - shape.columns);
    operations_ = 2.0 * static_cast<double>(shape.rows * shape.columns) * rest;
    bytes_ = 8.0 * static_cast<double>(shape.rows) * rest;
  }
  ~Spread() override { cublasDestroy(handle_); }

  cudaError_t Launch(cudaStream_t stream) override {
    cublasSetStream(handle_, stream);
    return SpreadErrors(handle_, device_errors_, device_factor_, device_weights_, shape_.rows,
                        shape_.cols, shape_.first, shape_.columns) == CUBLAS_STATUS_SUCCESS
               ? cudaSuccess
               : cudaErrorInvalidValue;
  }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    Doubles& weights = expected["weights"];
    weights.assign(weights_.begin(), weights_.end());
    for (int64_t row = 0; row < shape_.rows; ++row) {
      for (int64_t col = shape_.first + shape_.columns; col < shape_.cols; ++col) {
        for (int64_t i = 0; i < shape_.columns; ++i) {
          weights[static_cast<size_t>(row * shape_.cols + col)] -=
              static_cast<double>(errors_[static_cast<size_t>(row * kBlockColumns + i)]) *
              static_cast<double>(
                  factor_[static_cast<size_t>((shape_.first + i) * shape_.cols + col)]);
        }
      }
    }
  }

 private:
  Shape shape_;
  std::vector<float> weights_, factor_, errors_;
  cublasHandle_t handle_ = nullptr;
  const float* device_errors_;
  const float* device_factor_;
  float* device_weights_;
};

}  // namespace

std::vector<Case> LinalgCases() {
  std::vector<Case> cases;
  for (const Gram::Shape& s :
       {Gram::Shape{3, 1}, {17, 65}, {2, 2050}, {512, 1024}, {16384, 6144}}) {
    AddCase<Gram>(cases, "gram", Name({s.rows, s.cols}), s, s.rows < 512);
  }
  for (const int64_t n : {1, 2, 37, 512, 6144})
    AddCase<Factor>(cases, "factor", Name({n}), n, n < 512);
  for (const Spread::Shape& s :
       {Spread::Shape{1, 4, 0, 2}, {5, 300, 128, 128}, {3, 96, 64, 32}, {16384, 6144, 128, 128}}) {
    AddCase<Spread>(cases, "spread_errors", Name({s.rows, s.cols, s.first, s.columns}), s,
                    s.rows < 16384);
  }
  return cases;
}

}  // namespace nibble::cuda::bench
