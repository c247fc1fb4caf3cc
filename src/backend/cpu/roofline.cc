#include "backend/cpu/roofline.h"

#include <atomic>
#include <cstring>

#include "backend/cpu/memory.h"

namespace nibble::cpu {
namespace {

// Runs body(thread) once on every thread and returns the median time; the sum of what the bodies
// return goes to `sink`, so that nothing is optimised away.
template <typename Body>
double OnAllThreads(ThreadPool& pool, int repeats, std::atomic<uint64_t>& sink, const Body& body) {
  return MedianSeconds(repeats, [&] {
    pool.ParallelFor(pool.num_threads(), [&](int64_t index, int) {
      sink.fetch_add(static_cast<uint64_t>(body(index)), std::memory_order_relaxed);
    });
  });
}

}  // namespace

Roofline MeasureRoofline(const Kernels& kernels, ThreadPool& pool, int repeats,
                         int64_t buffer_bytes) {
  const int64_t threads = pool.num_threads();
  std::atomic<uint64_t> sink = 0;
  Roofline roofline;

  // Each thread walks its share in pieces, so that one that is held up does not decide the time.
  constexpr int64_t kPiece = int64_t{1} << 20;
  const int64_t pieces = std::max(threads, buffer_bytes / kPiece);
  const Buffer buffer = AllocateHostMemory(pieces * kPiece);
  std::memset(buffer.data(), 1, static_cast<size_t>(pieces * kPiece));
  const double read = MedianSeconds(repeats, [&] {
    pool.ParallelFor(pieces, [&](int64_t piece, int) {
      const char* const start = static_cast<const char*>(buffer.data()) + piece * kPiece;
      sink.fetch_add(kernels.read_memory(start, kPiece), std::memory_order_relaxed);
    });
  });
  roofline.read_bytes_per_second = static_cast<double>(pieces * kPiece) / read;

  constexpr int64_t kRounds = 1'000'000;
  const double multiply = OnAllThreads(
      pool, repeats, sink, [&](int64_t) { return kernels.multiply_add(kRounds) > 0.0f ? 1 : 0; });
  roofline.float_flops_per_second =
      static_cast<double>(threads * kRounds * kernels.multiply_add_flops_per_round) / multiply;
  const double dot =
      OnAllThreads(pool, repeats, sink, [&](int64_t) { return kernels.dot_bytes(kRounds); });
  roofline.byte_dot_ops_per_second =
      static_cast<double>(threads * kRounds * kernels.dot_bytes_ops_per_round) / dot;
  return roofline;
}

}  // namespace nibble::cpu
