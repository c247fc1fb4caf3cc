#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/float16.h"

// A kernel call with its arrays, checked against float64 and timed.
namespace nibble::cuda::bench {

enum class Type { kF32, kF64, kBf16, kI8, kI32 };

// Device memory between two canaries. Aborts with a message if allocation fails.
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* data() const { return base_ + kCanaryBytes; }
  int64_t bytes() const { return bytes_; }
  void Fill(int byte);
  void Upload(const std::vector<std::byte>& host);
  std::vector<std::byte> Download() const;
  bool canaries_alive() const;

 private:
  static constexpr int64_t kCanaryBytes = 4096;
  int64_t bytes_;
  std::byte* base_ = nullptr;
};

using Doubles = std::vector<double>;

class Problem {
 public:
  virtual ~Problem() = default;

  virtual cudaError_t Launch(cudaStream_t stream) = 0;

  // The same in float64 on the host, from the inputs as the device holds them: fills a vector for
  // each output and in-out array, by name. Elements whose expected value is NaN are not compared.
  virtual void Twin(std::map<std::string, Doubles>& expected) const = 0;

  // Minimum bytes moved and operations computed, for the roofline.
  double bytes() const { return bytes_; }
  double operations() const { return operations_; }

  int64_t footprint() const;  // of all arrays

  // Runs `repeats` times from the same inputs over poisoned outputs. Returns one line for each
  // fault: a failed launch, a write out of bounds, changed inputs, different bits in another run,
  // or a result farther from the twin than the tolerance.
  std::vector<std::string> Check(int repeats, cudaStream_t stream);

 protected:
  // Arrays live as long as the problem. A tolerance is ‖result - expected‖ / ‖expected‖ over the
  // array; 0 asks for every element exactly.
  template <typename T>
  const T* Input(const std::string& name, const std::vector<T>& values) {
    return static_cast<const T*>(
        Add(name, values.data(), values.size() * sizeof(T), true, TypeOf<T>(), -1));
  }
  template <typename T>
  T* Output(const std::string& name, size_t count, double tolerance) {
    return static_cast<T*>(Add(name, nullptr, count * sizeof(T), false, TypeOf<T>(), tolerance));
  }
  template <typename T>
  T* InOut(const std::string& name, const std::vector<T>& values, double tolerance) {
    return static_cast<T*>(
        Add(name, values.data(), values.size() * sizeof(T), true, TypeOf<T>(), tolerance));
  }
  // Scratch memory of a kernel: poisoned and guarded by canaries, never compared.
  template <typename T>
  T* Scratch(size_t count) {
    return static_cast<T*>(Add("scratch", nullptr, count * sizeof(T), false, TypeOf<T>(), -1));
  }

  double bytes_ = 0;
  double operations_ = 0;

 private:
  struct Array {
    std::string name;
    std::unique_ptr<DeviceMemory> memory;
    std::vector<std::byte> initial;  // empty: poisoned
    Type type;
    double tolerance;  // below 0: not compared
  };

  template <typename T>
  static constexpr Type TypeOf() {
    if constexpr (std::is_same_v<T, float>) return Type::kF32;
    if constexpr (std::is_same_v<T, double>) return Type::kF64;
    if constexpr (std::is_same_v<T, int8_t>) return Type::kI8;
    if constexpr (std::is_same_v<T, __nv_bfloat16>) return Type::kBf16;
    return Type::kI32;
  }

  void* Add(const std::string& name, const void* values, size_t bytes, bool has_values, Type type,
            double tolerance);

  std::vector<Array> arrays_;
};

// A problem of one shape; made afresh from a seed.
struct Case {
  std::string op;
  std::string shape;
  bool small = false;  // fast enough for the emulator, where the tests run it
  bool timed = false;
  std::function<std::unique_ptr<Problem>(uint64_t seed)> make;
  int least_major = 0;  // compute capability; older devices skip the case
};

// "3x129x8"
std::string Name(const std::vector<int64_t>& sizes);

// Appends the case of P(shape, seed). Cases that are not small are timed by default.
template <typename P, typename Shape>
void AddCase(std::vector<Case>& cases, const std::string& op, const std::string& name,
             const Shape& shape, bool small, bool timed) {
  cases.push_back({op, name, small, timed,
                   [shape](uint64_t seed) { return std::make_unique<P>(shape, seed); }});
}
template <typename P, typename Shape>
void AddCase(std::vector<Case>& cases, const std::string& op, const std::string& name,
             const Shape& shape, bool small) {
  AddCase<P>(cases, op, name, shape, small, !small);
}

std::vector<Case> AttentionCases();
std::vector<Case> ColumnBlockCases();
std::vector<Case> GemmInt4Cases();
std::vector<Case> LinalgCases();
std::vector<Case> LogitsCases();
std::vector<Case> MoeCases();
std::vector<Case> NormCases();
std::vector<Case> RopeCases();

// Every case of every kernel.
std::vector<Case> AllCases();

// Random inputs.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next();
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // [0, 1)
  double Normal();  // nearly: mean 0, deviation 1, at most 6
  std::vector<__nv_bfloat16> Bf16(int64_t count, double deviation, double mean = 0);
  std::vector<float> F32(int64_t count, double deviation);

 private:
  uint64_t state_;
};

inline double ToDouble(__nv_bfloat16 value) { return static_cast<double>(__bfloat162float(value)); }
inline double ToDouble(int8_t value) { return static_cast<double>(value); }
inline double RoundToBf16(double value) {
  return static_cast<double>(static_cast<float>(BFloat16(static_cast<float>(value))));
}

}  // namespace nibble::cuda::bench
