#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

#include "backend/make_backend.h"

namespace nibble::cpu {

// Peak rates of the machine, measured by microbenchmarks.
struct Roofline {
  double read_bytes_per_second = 0;    // from memory, by all threads together
  double float_flops_per_second = 0;   // float multiply-adds, two operations each
  double byte_dot_ops_per_second = 0;  // u8 x s8 multiply-adds, two operations each

  // Useful multiply-adds of packed weights, two operations each: each is one byte product for every
  // plane of the activations.
  double packed_ops_per_second(int activation_bits) const {
    return byte_dot_ops_per_second / (activation_bits / 8);
  }
};

// Medians of `repeats` runs on the threads and with the instruction set that a cpu backend with
// these options would use. Reads a buffer of `buffer_bytes`, which should be much larger than the
// caches.
Roofline MeasureRoofline(const BackendOptions& options, int repeats, int64_t buffer_bytes);

// The median time in seconds of `repeats` calls, after one call to warm up.
template <typename Body>
double MedianSeconds(int repeats, const Body& body) {
  body();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::ranges::nth_element(seconds, seconds.begin() + repeats / 2);
  return seconds[repeats / 2];
}

}  // namespace nibble::cpu
