#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/w4/gemm_int4.cuh"
#include "backend/cuda/w4/grouped_gemm.h"

namespace nibble::cuda::bench {
namespace {

enum class Kernel { kNaive, kSkinny, kBulk, kLibrary };

struct Shape {
  const char* op = "";
  Kernel kernel = Kernel::kSkinny;
  W4Output output = W4Output::kBf16;
  int64_t rows = 0;  // of a (merged) matrix
  int64_t cols = 0;
  int32_t tokens = 1;
  int32_t experts = 0;  // 0: dense
  int32_t top_k = 2;
  bool by_pair = false;  // results go to their pairs, weighted, and rows are not gathered (w2)
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t splits = 0;
  int32_t num_ctas = 132;
  int32_t shared_bytes = 227 * 1024;
};

// Words of random codes, scales near 0.01: any bits of the right size are a valid matrix.
std::vector<int32_t> RandomMatrices(const W4Layout& layout, int64_t count, Random& random) {
  const auto words_per_matrix = static_cast<size_t>(layout.size_bytes() / 4);
  std::vector<int32_t> words(words_per_matrix * static_cast<size_t>(count));
  for (int32_t& word : words) word = static_cast<int32_t>(random.Next() >> 32);
  auto* bytes = reinterpret_cast<std::byte*>(words.data());
  for (int64_t record = 0; record < layout.size_bytes() * count; record += kW4RecordBytes) {
    for (int r = 0; r < kW4RecordRows; ++r) {
      const BFloat16 scale(static_cast<float>(0.005 + 0.01 * random.Uniform()));
      std::memcpy(bytes + record + kW4ScaleOffset + 2 * r, &scale, sizeof scale);
    }
  }
  return words;
}

class W4Gemm final : public Problem {
 public:
  W4Gemm(const Shape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    args_.layout = MakeW4Layout(shape.rows, shape.cols);
    args_.num_experts = std::max(shape.experts, 1);
    args_.max_rows_per_expert = shape.tokens;
    args_.x_rows_per = 1;
    args_.output = shape.output;
    args_.num_heads = shape.num_heads;
    args_.num_kv_heads = shape.num_kv_heads;
    args_.head_dim = shape.head_dim;
    words_ = RandomMatrices(args_.layout, args_.num_experts, random);
    args_.weights = reinterpret_cast<const std::byte*>(Input("weights", words_));
    Route(random);
    args_.num_rows = static_cast<int32_t>(rows_.size());

    const int64_t x_rows = gathered() ? args_.num_rows : shape.tokens;
    x_ = random.Bf16(x_rows * shape.cols, 1);
    args_.x = Input("x", x_);
    if (shape.experts > 0) {
      args_.offsets = Input("offsets", offsets_);
      const int32_t* pairs = Input("pair_of_row", rows_);
      if (shape.by_pair) {
        args_.out_rows = pairs;
        out_weights_ = random.F32(args_.num_rows, 0.5);
        args_.out_weights = Input("out_weights", out_weights_);
      } else if (!gathered()) {
        args_.x_rows = pairs;
        args_.x_rows_per = shape.top_k;
      }
    }
    width_ = shape.rows / (shape.output == W4Output::kSwiGlu ? 2 : 1);
    const auto count = static_cast<size_t>(args_.num_rows * width_);
    // The library path rounds weights to BF16; the others round at most the result.
    const bool library = shape.kernel == Kernel::kLibrary;
    if (shape.output == W4Output::kF32) {
      args_.out = Output<float>("out", count, library ? 4e-3 : 1e-5);
    } else {
      args_.out = Output<__nv_bfloat16>("out", count, library ? 4e-3 : 2e-3);
    }
    if (library) PrepareLibrary();

    plan_.num_ctas = shape.num_ctas;
    plan_.splits = shape.splits;
    plan_.shared_bytes = shape.shared_bytes;
    plan_.workspace = Scratch<float>(static_cast<size_t>(WorkspaceFloats(args_, plan_)));
    const std::vector<int32_t> flags(static_cast<size_t>(WorkspaceFlags(args_, plan_)));
    plan_.flags = reinterpret_cast<uint32_t*>(InOut("flags", flags, 0));
    num_flags_ = flags.size();

    int64_t experts_hit = shape.experts == 0 ? 1 : 0;
    for (size_t e = 0; e + 1 < offsets_.size(); ++e) experts_hit += offsets_[e + 1] > offsets_[e];
    bytes_ =
        static_cast<double>(experts_hit * args_.layout.size_bytes() + x_rows * shape.cols * 2) +
        static_cast<double>(count) * (shape.output == W4Output::kF32 ? 4 : 2);
    operations_ = 2.0 * static_cast<double>(args_.num_rows) * static_cast<double>(shape.rows) *
                  static_cast<double>(shape.cols);
  }

  ~W4Gemm() override {
    if (library_.weight != nullptr) cublasDestroy(handle_);
  }

  cudaError_t Launch(cudaStream_t stream) override {
    if (shape_.kernel == Kernel::kNaive) return LaunchNaiveW4Gemm(args_, stream);
    if (shape_.kernel == Kernel::kSkinny) return LaunchSkinnyW4Gemm(args_, plan_, stream);
    if (shape_.kernel == Kernel::kBulk) return LaunchBulkW4Gemm(args_, plan_, stream);
    const cublasStatus_t status = GroupedW4Gemm(handle_, library_, stream);
    return status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
  }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();
    Doubles out(rows_.size() * static_cast<size_t>(width_), kNothing);
    // Of a large product only a sample of columns, spread over all panels, is compared.
    const double excess = operations_ / 4e8;
    const int64_t stride = excess <= 1 ? 1 : (static_cast<int64_t>(excess) / 8 + 1) * 8 + 1;
    for (size_t i = 0; i < rows_.size(); ++i) {
      int64_t expert = 0;
      while (shape_.experts > 0 &&
             offsets_[static_cast<size_t>(expert) + 1] <= static_cast<int32_t>(i)) {
        ++expert;
      }
      const auto pair = static_cast<size_t>(rows_[i]);
      const size_t x_row = gathered() ? i : pair / static_cast<size_t>(shape_.top_k);
      const size_t out_row = shape_.by_pair ? pair : i;
      for (int64_t column = 0; column < width_; column += stride) {
        double value;
        if (shape_.output == W4Output::kSwiGlu) {
          const int64_t gate_row = column / 8 * 16 + column % 8;
          const double gate = Dot(expert, gate_row, x_row);
          value = gate / (1 + std::exp(-gate)) * Dot(expert, gate_row + 8, x_row);
        } else {
          value = Dot(expert, MergedRow(column), x_row);
        }
        if (shape_.by_pair) value *= static_cast<double>(out_weights_[pair]);
        out[out_row * static_cast<size_t>(width_) + static_cast<size_t>(column)] = value;
      }
    }
    expected["out"] = out;
    expected["flags"] = Doubles(num_flags_, 0.0);
  }

 private:
  // rows_: the pair of each list row, sorted by expert; for a dense layer the tokens in order. The
  // distribution is skewed: some experts get no rows, some get many.
  void Route(Random& random) {
    if (shape_.experts == 0) {
      for (int32_t token = 0; token < shape_.tokens; ++token) rows_.push_back(token);
      return;
    }
    std::vector<std::vector<int32_t>> of_expert(static_cast<size_t>(shape_.experts));
    for (int32_t token = 0; token < shape_.tokens; ++token) {
      std::vector<int64_t> chosen;
      while (static_cast<int32_t>(chosen.size()) < shape_.top_k) {
        const int64_t expert = random.Below(shape_.experts);
        if (std::ranges::find(chosen, expert) == chosen.end()) chosen.push_back(expert);
      }
      for (int32_t k = 0; k < shape_.top_k; ++k) {
        of_expert[static_cast<size_t>(chosen[static_cast<size_t>(k)])].push_back(
            token * shape_.top_k + k);
      }
    }
    offsets_.push_back(0);
    for (const auto& pairs : of_expert) {
      rows_.insert(rows_.end(), pairs.begin(), pairs.end());
      offsets_.push_back(static_cast<int32_t>(rows_.size()));
    }
  }

  // Whether the rows of x are those of the list.
  bool gathered() const {
    return shape_.experts == 0 || shape_.by_pair || shape_.kernel == Kernel::kLibrary;
  }

  void PrepareLibrary() {
    cublasCreate(&handle_);
    library_.gemm = args_;
    library_.host_offsets = shape_.experts > 0 ? offsets_.data() : nullptr;
    library_.weight = Scratch<__nv_bfloat16>(static_cast<size_t>(shape_.rows * shape_.cols));
    library_.sums = Scratch<float>(static_cast<size_t>(args_.num_rows * shape_.rows));
  }

  // The row of the merged matrix that yields column `column` of the result: the inverse mapping, by
  // search.
  int64_t MergedRow(int64_t column) const {
    if (shape_.head_dim == 0) return column;
    const int64_t q_rows = int64_t{shape_.num_heads} * shape_.head_dim;
    const int64_t k_rows = int64_t{shape_.num_kv_heads} * shape_.head_dim;
    if (column >= q_rows + k_rows) return column;  // values are not interleaved
    const int64_t first = column - (column < q_rows ? column : column - q_rows) % shape_.head_dim;
    for (int64_t row = first; row < first + shape_.head_dim; ++row) {
      const W4SourceRow source =
          QkvSource(row, shape_.num_heads, shape_.num_kv_heads, shape_.head_dim);
      if (source.row + (source.part == 0 ? 0 : q_rows) == column) return row;
    }
    return -1;
  }

  double Dot(int64_t expert, int64_t row, size_t x_row) const {
    const W4Layout& layout = args_.layout;
    const auto* bytes =
        reinterpret_cast<const std::byte*>(words_.data()) + expert * layout.size_bytes();
    double sum = 0;
    for (int64_t col = 0; col < layout.cols; ++col) {
      const W4CodePosition at = CodePosition(layout, row, col);
      uint32_t word;
      std::memcpy(&word, bytes + at.byte, sizeof word);
      BFloat16 scale;
      std::memcpy(&scale, bytes + ScalePosition(layout, row, col / kW4GroupCols), sizeof scale);
      sum += (static_cast<double>(word >> at.shift & 0xf) - 8) *
             static_cast<double>(static_cast<float>(scale)) *
             ToDouble(x_[x_row * static_cast<size_t>(layout.cols) + static_cast<size_t>(col)]);
    }
    return sum;
  }

  Shape shape_;
  W4GemmArgs args_ = {};
  SkinnyPlan plan_ = {};
  GroupedW4GemmArgs library_ = {};
  cublasHandle_t handle_ = {};
  std::vector<int32_t> words_, offsets_, rows_;
  std::vector<__nv_bfloat16> x_;
  std::vector<float> out_weights_;
  int64_t width_ = 0;
  size_t num_flags_ = 0;
};

class DequantizeW4 final : public Problem {
 public:
  DequantizeW4(int64_t rows, int64_t cols, uint64_t seed) {
    Random random(seed);
    args_.layout = MakeW4Layout(rows, cols);
    words_ = RandomMatrices(args_.layout, 1, random);
    args_.weights = reinterpret_cast<const std::byte*>(Input("weights", words_));
    args_.out = Output<__nv_bfloat16>("out", static_cast<size_t>(rows * cols), 0);
    bytes_ = static_cast<double>(args_.layout.size_bytes() + rows * cols * 2);
    operations_ = static_cast<double>(rows * cols);
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchDequantizeW4(args_, stream); }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    const W4Layout& layout = args_.layout;
    const auto* bytes = reinterpret_cast<const std::byte*>(words_.data());
    Doubles out;
    for (int64_t row = 0; row < layout.rows; ++row) {
      for (int64_t col = 0; col < layout.cols; ++col) {
        const W4CodePosition at = CodePosition(layout, row, col);
        uint32_t word;
        std::memcpy(&word, bytes + at.byte, sizeof word);
        BFloat16 scale;
        std::memcpy(&scale, bytes + ScalePosition(layout, row, col / kW4GroupCols), sizeof scale);
        out.push_back(RoundToBf16((static_cast<double>(word >> at.shift & 0xf) - 8) *
                                  static_cast<double>(static_cast<float>(scale))));
      }
    }
    expected["out"] = out;
  }

 private:
  DequantizeW4Args args_ = {};
  std::vector<int32_t> words_;
};

}  // namespace

std::vector<Case> GemmInt4Cases() {
  const std::map<Kernel, std::string> kSuffix = {{Kernel::kNaive, "_naive"},
                                                 {Kernel::kSkinny, ""},
                                                 {Kernel::kBulk, "_bulk"},
                                                 {Kernel::kLibrary, "_cublas"}};
  std::vector<Case> cases;
  const auto add = [&](Shape shape, bool small, bool timed) {
    std::string name = std::to_string(shape.tokens) + "x" + std::to_string(shape.rows) + "x" +
                       std::to_string(shape.cols);
    if (shape.experts > 0) name += " of " + std::to_string(shape.experts);
    if (shape.splits > 0) name += " in " + std::to_string(shape.splits);
    cases.push_back({std::string(shape.op) + kSuffix.at(shape.kernel), name, small, timed,
                     [shape](uint64_t seed) { return std::make_unique<W4Gemm>(shape, seed); },
                     shape.kernel == Kernel::kBulk ? 9 : 0});
  };
  // Every token tile and panel height, split over few and many blocks, and with little shared
  // memory.
  for (const Kernel kernel : {Kernel::kNaive, Kernel::kSkinny, Kernel::kBulk, Kernel::kLibrary}) {
    add({.op = "w4_dense", .kernel = kernel, .rows = 64, .cols = 128, .tokens = 1}, true, false);
    add({.op = "w4_qkv",
         .kernel = kernel,
         .rows = 6 * 32,
         .cols = 256,
         .tokens = 11,
         .num_heads = 4,
         .num_kv_heads = 1,
         .head_dim = 32,
         .num_ctas = 5},
        true, false);
    add({.op = "w4_o",
         .kernel = kernel,
         .output = W4Output::kF32,
         .rows = 250,
         .cols = 640,
         .tokens = 3,
         .num_ctas = 3},
        true, false);
    add({.op = "w4_gate_up",
         .kernel = kernel,
         .output = W4Output::kSwiGlu,
         .rows = 144,
         .cols = 384,
         .tokens = 5,
         .experts = 4,
         .num_ctas = 7},
        true, false);
    add({.op = "w4_down",
         .kernel = kernel,
         .output = W4Output::kF32,
         .rows = 128,
         .cols = 512,
         .tokens = 4,
         .experts = 3,
         .by_pair = true,
         .num_ctas = 4},
        true, false);
  }
  for (const Kernel kernel : {Kernel::kSkinny, Kernel::kBulk}) {
    for (const int32_t tokens : {8, 16, 24, 32, 48, 64, 70}) {
      add({.op = "w4_dense",
           .kernel = kernel,
           .output = W4Output::kF32,
           .rows = 128,
           .cols = 384,
           .tokens = tokens,
           .num_ctas = 4,
           .shared_bytes = tokens > 24 ? 99 * 1024 : 227 * 1024},
          true, false);
    }
    for (const int32_t ctas : {1, 2, 29}) {
      add({.op = "w4_down",
           .kernel = kernel,
           .output = W4Output::kF32,
           .rows = 256,
           .cols = 640,
           .tokens = 5,
           .experts = 3,
           .by_pair = true,
           .splits = 3,
           .num_ctas = ctas},
          true, false);
    }
  }
  // Mixtral-8x22B.
  const Shape qkv = {.op = "w4_qkv",
                     .rows = 8192,
                     .cols = 6144,
                     .num_heads = 48,
                     .num_kv_heads = 8,
                     .head_dim = 128};
  const Shape o = {.op = "w4_o", .output = W4Output::kF32, .rows = 6144, .cols = 6144};
  const Shape gate_up = {
      .op = "w4_gate_up", .output = W4Output::kSwiGlu, .rows = 32768, .cols = 6144, .experts = 8};
  const Shape down = {.op = "w4_down",
                      .output = W4Output::kF32,
                      .rows = 6144,
                      .cols = 16384,
                      .experts = 8,
                      .by_pair = true};
  const auto add_timed = [&](Shape shape, Kernel kernel, int32_t tokens) {
    shape.kernel = kernel;
    shape.tokens = tokens;
    add(shape, false, true);
  };
  for (const Kernel kernel : {Kernel::kSkinny, Kernel::kBulk}) {
    for (const int32_t tokens : {1, 4, 16, 64}) {
      if (kernel == Kernel::kBulk && TokenTile(tokens) == 64) continue;  // runs kSkinny's kernel
      for (const Shape& shape : {qkv, o, gate_up, down}) add_timed(shape, kernel, tokens);
    }
  }
  for (const int32_t tokens : {512, 4096}) {
    for (const Shape& shape : {gate_up, down}) add_timed(shape, Kernel::kLibrary, tokens);
  }
  for (const auto& [rows, cols, small] :
       {std::tuple{64, 128, true}, {70, 256, true}, {32768, 6144, false}}) {
    cases.push_back(
        {"w4_dequantize", std::to_string(rows) + "x" + std::to_string(cols), small, !small,
         [rows, cols](uint64_t seed) { return std::make_unique<DequantizeW4>(rows, cols, seed); }});
  }
  return cases;
}

}  // namespace nibble::cuda::bench
