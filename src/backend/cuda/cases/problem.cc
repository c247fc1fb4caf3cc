#include "backend/cuda/cases/problem.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace nibble::cuda::bench {
namespace {

constexpr int kPoison = 0xff;  // NaN in every floating-point format, -1 as an integer
constexpr int kCanary = 0xa5;

void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "nibble_gpu_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

double Element(const std::vector<std::byte>& bytes, Type type, size_t index) {
  const auto read = [&]<typename T>(T value) {
    std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
    return value;
  };
  switch (type) {
    case Type::kF32:
      return static_cast<double>(read(0.0f));
    case Type::kF64:
      return read(0.0);
    case Type::kBf16:
      return ToDouble(read(__nv_bfloat16{}));
    case Type::kI8:
      return static_cast<double>(read(int8_t{0}));
    case Type::kI32:
      return static_cast<double>(read(int32_t{0}));
  }
  return 0;
}

size_t SizeOf(Type type) {
  switch (type) {
    case Type::kF64:
      return 8;
    case Type::kBf16:
      return 2;
    case Type::kI8:
      return 1;
    default:
      return 4;
  }
}

// Describes how `actual` differs from what is expected; empty if it does not.
std::string Compare(const std::vector<std::byte>& actual, Type type, const Doubles& expected,
                    double tolerance) {
  const size_t count = actual.size() / SizeOf(type);
  if (expected.size() != count) {
    return "its twin has " + std::to_string(expected.size()) + " elements, not " +
           std::to_string(count);
  }
  double error = 0, norm = 0;
  for (size_t i = 0; i < count; ++i) {
    if (std::isnan(expected[i])) continue;
    const double value = Element(actual, type, i);
    const bool same = value == expected[i];
    if (!same && (tolerance == 0 || !std::isfinite(value) || !std::isfinite(expected[i]))) {
      return "element " + std::to_string(i) + " is " + std::to_string(value) + ", expected " +
             std::to_string(expected[i]);
    }
    if (same && !std::isfinite(value)) continue;
    error += (value - expected[i]) * (value - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double relative = std::sqrt(error / std::max(norm, 1e-300));
  if (relative <= tolerance) return "";
  return "relative error " + std::to_string(relative) + ", allowed " + std::to_string(tolerance);
}

}  // namespace

DeviceMemory::DeviceMemory(int64_t bytes) : bytes_(bytes) {
  void* base = nullptr;
  Require(cudaMalloc(&base, static_cast<size_t>(bytes + 2 * kCanaryBytes)), "cudaMalloc");
  base_ = static_cast<std::byte*>(base);
  Require(cudaMemset(base_, kCanary, static_cast<size_t>(bytes + 2 * kCanaryBytes)), "cudaMemset");
}

DeviceMemory::~DeviceMemory() { cudaFree(base_); }

void DeviceMemory::Fill(int byte) {
  Require(cudaMemset(data(), byte, static_cast<size_t>(bytes_)), "cudaMemset");
}

void DeviceMemory::Upload(const std::vector<std::byte>& host) {
  Require(cudaMemcpy(data(), host.data(), host.size(), cudaMemcpyHostToDevice), "upload");
}

std::vector<std::byte> DeviceMemory::Download() const {
  std::vector<std::byte> host(static_cast<size_t>(bytes_));
  Require(cudaMemcpy(host.data(), data(), host.size(), cudaMemcpyDeviceToHost), "download");
  return host;
}

bool DeviceMemory::canaries_alive() const {
  std::vector<std::byte> canary(kCanaryBytes);
  for (const std::byte* place : {base_, base_ + kCanaryBytes + bytes_}) {
    Require(cudaMemcpy(canary.data(), place, canary.size(), cudaMemcpyDeviceToHost), "download");
    for (const std::byte byte : canary) {
      if (byte != std::byte{kCanary}) return false;
    }
  }
  return true;
}

void* Problem::Add(const std::string& name, const void* values, size_t bytes, bool has_values,
                   Type type, double tolerance) {
  Array array{
      name, std::make_unique<DeviceMemory>(static_cast<int64_t>(bytes)), {}, type, tolerance};
  if (has_values) {
    const auto* first = static_cast<const std::byte*>(values);
    array.initial.assign(first, first + bytes);
    array.memory->Upload(array.initial);
  }
  arrays_.push_back(std::move(array));
  return arrays_.back().memory->data();
}

int64_t Problem::footprint() const {
  int64_t sum = 0;
  for (const Array& array : arrays_) sum += array.memory->bytes();
  return sum;
}

std::vector<std::string> Problem::Check(int repeats, cudaStream_t stream) {
  std::vector<std::string> findings;
  std::map<std::string, Doubles> expected;
  Twin(expected);
  std::vector<std::vector<std::byte>> first(arrays_.size());
  for (int run = 0; run < repeats; ++run) {
    for (Array& array : arrays_) {
      if (array.initial.empty()) {
        array.memory->Fill(kPoison);
      } else {
        array.memory->Upload(array.initial);
      }
    }
    cudaError_t error = Launch(stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    if (error != cudaSuccess) return {std::string("launch: ") + cudaGetErrorString(error)};

    for (size_t i = 0; i < arrays_.size(); ++i) {
      const Array& array = arrays_[i];
      if (!array.memory->canaries_alive())
        findings.push_back(array.name + ": written beyond its end");
      const bool is_input = array.tolerance < 0 && !array.initial.empty();
      if (array.tolerance < 0 && !is_input) continue;  // scratch
      std::vector<std::byte> now = array.memory->Download();
      if (is_input) {
        if (now != array.initial) findings.push_back(array.name + ": an input was changed");
        continue;
      }
      if (run > 0) {
        if (now != first[i])
          findings.push_back(array.name + ": other bits in run " + std::to_string(run));
        continue;
      }
      const std::string finding = Compare(now, array.type, expected[array.name], array.tolerance);
      if (!finding.empty()) findings.push_back(array.name + ": " + finding);
      first[i] = std::move(now);
    }
  }
  return findings;
}

std::string Name(const std::vector<int64_t>& sizes) {
  std::string name;
  for (const int64_t size : sizes) {
    if (!name.empty()) name += 'x';
    name += std::to_string(size);
  }
  return name;
}

uint64_t Random::Next() {  // SplitMix64
  uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

double Random::Normal() {  // the sum of twelve uniforms, from three draws of four 16-bit ones
  double sum = -6;
  for (int draw = 0; draw < 3; ++draw) {
    const uint64_t bits = Next();
    for (int part = 0; part < 4; ++part)
      sum += (static_cast<double>(bits >> (16 * part) & 0xffff) + 0.5) * 0x1p-16;
  }
  return sum;
}

std::vector<__nv_bfloat16> Random::Bf16(int64_t count, double deviation, double mean) {
  std::vector<__nv_bfloat16> values(static_cast<size_t>(count));
  for (auto& value : values)
    value = __float2bfloat16(static_cast<float>(mean + deviation * Normal()));
  return values;
}

std::vector<float> Random::F32(int64_t count, double deviation) {
  std::vector<float> values(static_cast<size_t>(count));
  for (auto& value : values) value = static_cast<float>(deviation * Normal());
  return values;
}

}  // namespace nibble::cuda::bench
