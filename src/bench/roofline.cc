#include "bench/roofline.h"

#include <atomic>
#include <cstring>

#include "backend/cpu/kernels/instruction_set.h"
#include "base/big_memory.h"
#include "base/thread_pool.h"

namespace nibble::cpu {
namespace {

// Operations a second when all threads run body(rounds), which does `amount` operations a round.
// Tasks are small, so that a delayed thread does not determine the time. The results go to `sink`,
// so that nothing is optimized away.
template <typename Body>
double Rate(ThreadPool& pool, int repeats, int64_t amount, std::atomic<uint64_t>& sink,
            const Body& body) {
  constexpr int64_t kRounds = 50'000;
  const int64_t pieces = 24 * pool.num_threads();
  const double seconds = MedianSeconds(repeats, [&] {
    pool.ParallelFor(pieces, [&](int64_t, int) {
      sink.fetch_add(static_cast<uint64_t>(body(kRounds)), std::memory_order_relaxed);
    });
  });
  return static_cast<double>(pieces * kRounds * amount) / seconds;
}

}  // namespace

Roofline MeasureRoofline(const BackendOptions& options, int repeats, int64_t buffer_bytes) {
  const Kernels& kernels = *ChooseInstructionSet(options.instruction_set).kernels;
  ThreadPool pool(options.threads > 0 ? options.threads : AvailableThreads());
  const int64_t threads = pool.num_threads();
  std::atomic<uint64_t> sink = 0;
  Roofline roofline;

  constexpr int64_t kPiece = int64_t{1} << 20;
  const int64_t pieces = std::max(threads, buffer_bytes / kPiece);
  const BigMemory buffer(pieces * kPiece, "the measurement");
  std::memset(buffer.data(), 1, static_cast<size_t>(pieces * kPiece));
  const double read = MedianSeconds(repeats, [&] {
    pool.ParallelFor(pieces, [&](int64_t piece, int) {
      const char* const start = reinterpret_cast<const char*>(buffer.data()) + piece * kPiece;
      sink.fetch_add(kernels.read_memory(start, kPiece), std::memory_order_relaxed);
    });
  });
  roofline.read_bytes_per_second = static_cast<double>(pieces * kPiece) / read;

  roofline.float_flops_per_second =
      Rate(pool, repeats, kernels.multiply_add_flops_per_round, sink,
           [&](int64_t rounds) { return kernels.multiply_add(rounds) > 0.0f ? 1 : 0; });
  roofline.byte_dot_ops_per_second =
      Rate(pool, repeats, kernels.dot_bytes_ops_per_round, sink,
           [&](int64_t rounds) { return kernels.dot_bytes(rounds); });
  return roofline;
}

}  // namespace nibble::cpu
