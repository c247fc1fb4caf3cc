#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/cpu_weight.h"
#include "backend/cpu/kernels/table.h"
#include "base/big_memory.h"
#include "base/thread_pool.h"

namespace nibble::cpu {

// out[i] = weight x[rows[i]], for i < num_rows; out [num_rows, weight rows].
struct LinearTask {
  enum class Then {
    kStore,      // out = result
    kAdd,        // out += result
    kSiluTimes,  // out = silu(result) * (second x): weight is the gate, second the up projection
  };

  const CpuMatrix* weight = nullptr;
  const CpuMatrix* second = nullptr;
  const float* x = nullptr;       // rows of weight->cols() floats, x_stride apart
  const int32_t* rows = nullptr;  // null: row i is i
  int64_t num_rows = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  Then then = Then::kStore;
};

// Runs matrix products: a few tasks at once (q, k and v; all experts), divided into pieces of some
// weight tiles by some rows, which the threads take one by one. Results do not depend on the
// division.
class LinearRunner {
 public:
  // Activations of packed weights are rounded to `activation_planes` int8 planes: 2 (16 bits) or 1.
  LinearRunner(const Kernels& kernels, ThreadPool& pool, int activation_planes);

  // Tasks must not write what another one reads or writes.
  void Run(std::span<const LinearTask> tasks);

 private:
  // Activations of a packed weight in fixed point; several weights that read the same rows share
  // them.
  struct FixedInput {
    const float* x;
    const int32_t* rows;
    int64_t num_rows;
    int64_t cols;
    const PackedLayout* layout;  // whose columns and blocks they follow
    FixedPointRows fixed;
    int64_t first_row;  // among the rows of all inputs
  };
  // How a task is divided: piece p is tile group p % num_groups and row range p / num_groups.
  struct Plan {
    const FixedInput* input;
    const FixedInput* second_input;
    int64_t first_piece;
    int64_t num_groups;
    int64_t tiles_per_group;  // of the output; a task with a second weight reads twice as many
    int64_t rows_per_run;
  };
  struct ThreadScratch {
    Scratch sums, tile, rows;
  };

  const FixedInput* AddInput(const LinearTask& task, const CpuMatrix& weight);
  void FixInputs();
  int64_t Cut(std::span<const LinearTask> tasks, int64_t max_tiles, int64_t max_rows);
  void RunPiece(const LinearTask& task, const Plan& plan, int64_t piece, ThreadScratch& scratch);
  void Multiply(const LinearTask& task, const CpuMatrix& weight, const CpuMatrix* second,
                int64_t first_tile, int64_t num_tiles, const FixedInput* input, int64_t first_row,
                int64_t num_rows, float* sums, ThreadScratch& scratch);

  const Kernels& kernels_;
  ThreadPool& pool_;
  int activation_planes_;
  std::vector<ThreadScratch> scratch_;  // one a thread
  std::vector<FixedInput> inputs_;
  std::vector<Plan> plans_;
  Scratch planes_, scales_, sums_;
};

}  // namespace nibble::cpu
