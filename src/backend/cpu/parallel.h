#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "base/math.h"
#include "base/thread_pool.h"

namespace nibble::cpu {

// ThreadPool::ParallelFor without its one allocation: std::function copies a large closure to the
// heap, but not a reference to one.
template <typename Body>
void Parallel(ThreadPool& pool, int64_t count, const Body& body) {
  const std::function<void(int64_t, int)> call = std::cref(body);
  pool.ParallelFor(count, call);
}

// body(row) for each row, in chunks large enough for a task: `floats_per_row` measures the work of
// a row. Little work stays on the calling thread, since waking another one costs microseconds.
template <typename Body>
void ForRows(ThreadPool& pool, int64_t num_rows, int64_t floats_per_row, const Body& body) {
  constexpr int64_t kFloatsPerRun = 16384;
  const int64_t run =
      std::clamp<int64_t>(kFloatsPerRun / std::max<int64_t>(floats_per_row, 1), 1, num_rows + 1);
  Parallel(pool, CeilDiv(num_rows, run), [&](int64_t index, int) {
    const int64_t end = std::min(num_rows, (index + 1) * run);
    for (int64_t row = index * run; row < end; ++row) body(row);
  });
}

}  // namespace nibble::cpu
