#include "backend/cpu/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu/kernels/instruction_set.h"
#include "tests/support/testing_layer.h"

namespace nibble::cpu {
namespace {

using testing::HostWeight;
using testing::RandomValues;
using testing::RandomWeight;
using testing::RelativeError;
using testing::WeightFormat;

std::vector<float> Values(const HostWeight& host) {
  const WeightView view = host.view();
  if (const auto* packed = std::get_if<PackedView>(&view)) return Dequantize(*packed);
  return ToFloat(std::get<TensorView>(view));
}

double Dot(const std::vector<float>& weight, int64_t row, const float* x, int64_t cols) {
  double sum = 0;
  for (int64_t k = 0; k < cols; ++k) {
    sum += static_cast<double>(weight[row * cols + k]) * static_cast<double>(x[k]);
  }
  return sum;
}

class LinearTest : public ::testing::Test {
 protected:
  std::unique_ptr<CpuMatrix> Prepared(const HostWeight& host) {
    return std::make_unique<CpuMatrix>(PrepareMatrix(host.view(), Role::kProjection, pool_));
  }

  ThreadPool pool_{3};
  LinearRunner runner_{*ChooseInstructionSet("").kernels, pool_, 2};
};

// More rows than a piece and more tiles than a call, with every kind of output.
TEST_F(LinearTest, GathersRowsAndWritesAsAsked) {
  const int64_t rows = 650, cols = 96, num_rows = 401;
  std::vector<int32_t> gather;
  for (int32_t i = 0; i < num_rows; ++i) gather.push_back(i * 7 % 50);
  const std::vector<float> x = RandomValues(50 * cols, 1);
  for (const WeightFormat& format :
       {WeightFormat{.dtype = DType::kBF16}, WeightFormat{.bits = 4, .group_size = 32}}) {
    SCOPED_TRACE(format.ToString());
    const HostWeight first = RandomWeight(format, rows, cols, 2);
    const HostWeight second = RandomWeight(format, rows, cols, 3);
    const auto weight = Prepared(first);
    const auto other = Prepared(second);
    const std::vector<float> a = Values(first), b = Values(second);
    for (const auto then :
         {LinearTask::Then::kStore, LinearTask::Then::kAdd, LinearTask::Then::kSiluTimes}) {
      std::vector<float> out(num_rows * rows, 0.5f);
      LinearTask task;
      task.weight = weight.get();
      task.second = then == LinearTask::Then::kSiluTimes ? other.get() : nullptr;
      task.x = x.data();
      task.rows = gather.data();
      task.num_rows = num_rows;
      task.out = out.data();
      task.out_stride = rows;
      task.then = then;
      runner_.Run({&task, 1});

      std::vector<float> expected(out.size());
      for (int64_t i = 0; i < num_rows; ++i) {
        const float* const row = x.data() + gather[i] * cols;
        for (int64_t r = 0; r < rows; ++r) {
          double value = Dot(a, r, row, cols);
          if (then == LinearTask::Then::kAdd) value += 0.5;
          if (then == LinearTask::Then::kSiluTimes) {
            value = value / (1.0 + std::exp(-value)) * Dot(b, r, row, cols);
          }
          expected[i * rows + r] = static_cast<float>(value);
        }
      }
      EXPECT_LE(RelativeError(out, expected), format.bits > 0 ? 4e-5 : 1e-6)
          << static_cast<int>(then);
    }
  }
}

// Gate and up may be stored differently; so may the weights of tasks that run together.
TEST_F(LinearTest, MixesFormatsInOneRun) {
  const int64_t rows = 130, cols = 64, num_rows = 5;
  const std::vector<float> x = RandomValues(num_rows * cols, 1);
  const std::vector<WeightFormat> formats = {
      {.dtype = DType::kBF16},
      {.dtype = DType::kF32},
      {.bits = 4, .group_size = 32},
      {.bits = 8, .group_size = 32},
      {.bits = 4, .group_size = 64},
      {.bits = 4, .group_size = 32, .act_order = true},
      {.dtype = DType::kF32, .bits = 4, .group_size = 32, .symmetric = false}};
  std::vector<HostWeight> hosts;
  std::vector<std::unique_ptr<CpuMatrix>> weights;
  for (size_t i = 0; i < formats.size(); ++i) {
    hosts.push_back(RandomWeight(formats[i], rows, cols, 10 + i));
    weights.push_back(Prepared(hosts.back()));
  }
  const size_t count = formats.size();
  std::vector<float> out(count * count * static_cast<size_t>(num_rows * rows));
  std::vector<LinearTask> tasks;
  for (size_t pair = 0; pair < count * count; ++pair) {
    LinearTask task;
    task.weight = weights[pair / count].get();
    task.second = weights[pair % count].get();
    task.x = x.data();
    task.num_rows = num_rows;
    task.out = out.data() + pair * static_cast<size_t>(num_rows * rows);
    task.out_stride = rows;
    task.then = LinearTask::Then::kSiluTimes;
    tasks.push_back(task);
  }
  runner_.Run(tasks);

  for (size_t pair = 0; pair < count * count; ++pair) {
    const std::vector<float> gate = Values(hosts[pair / count]);
    const std::vector<float> up = Values(hosts[pair % count]);
    std::vector<float> expected;
    for (int64_t i = 0; i < num_rows; ++i) {
      for (int64_t r = 0; r < rows; ++r) {
        const double value = Dot(gate, r, x.data() + i * cols, cols);
        expected.push_back(static_cast<float>(value / (1.0 + std::exp(-value)) *
                                              Dot(up, r, x.data() + i * cols, cols)));
      }
    }
    const auto begin = out.begin() + static_cast<int64_t>(pair * expected.size());
    EXPECT_LE(RelativeError({begin, begin + static_cast<int64_t>(expected.size())}, expected), 8e-5)
        << formats[pair / count].ToString() << " with " << formats[pair % count].ToString();
  }
}

// Activations of one plane: each block of columns rounded to multiples of its largest over 127.
TEST_F(LinearTest, OnePlaneMultipliesRoundedActivations) {
  const int64_t rows = 130, cols = 384, num_rows = 23, block = 128;
  const std::vector<float> x = RandomValues(num_rows * cols, 1);
  std::vector<float> rounded;
  for (size_t first = 0; first < x.size(); first += block) {
    float largest = 0;
    for (size_t k = first; k < first + block; ++k) largest = std::max(largest, std::abs(x[k]));
    for (size_t k = first; k < first + block; ++k) {
      rounded.push_back(std::nearbyint(x[k] * (127 / largest)) * (largest / 127));
    }
  }
  for (const int bits : {4, 8}) {
    for (const bool symmetric : {true, false}) {
      const HostWeight host =
          RandomWeight({.bits = bits, .group_size = block, .symmetric = symmetric}, rows, cols, 2);
      const auto weight = Prepared(host);
      std::vector<float> out(num_rows * rows);
      LinearTask task;
      task.weight = weight.get();
      task.x = x.data();
      task.num_rows = num_rows;
      task.out = out.data();
      task.out_stride = rows;
      LinearRunner one_plane{*ChooseInstructionSet("").kernels, pool_, 1};
      one_plane.Run({&task, 1});
      const std::vector<float> values = Values(host);
      std::vector<float> expected;
      for (int64_t i = 0; i < num_rows; ++i) {
        for (int64_t r = 0; r < rows; ++r) {
          expected.push_back(static_cast<float>(Dot(values, r, rounded.data() + i * cols, cols)));
        }
      }
      EXPECT_LE(RelativeError(out, expected), 1e-6) << bits << " " << symmetric;
    }
  }
}

TEST_F(LinearTest, NothingToDoIsFine) { runner_.Run({}); }

}  // namespace
}  // namespace nibble::cpu
