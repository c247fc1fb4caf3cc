#include "quantize/gptq/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "quantize/gptq/hessian_factor.h"
#include "quantize/gptq/linear_solver.h"

namespace nibble {
namespace {

std::vector<QuantizedLinear> Solve(const Recipe& recipe, DType scale_dtype,
                                   std::span<const DenseLinear> linears, HessianFactor* factor,
                                   int64_t tokens, GptqAlgebra& algebra) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<LinearSolver> solvers;
  solvers.reserve(linears.size());
  for (const DenseLinear& linear : linears) {
    solvers.emplace_back(recipe, scale_dtype, linear, factor);
  }
  bool factored = false;
  if (factor != nullptr) {
    for (LinearSolver& solver : solvers) solver.MeasureRounding(algebra);
    factored = factor->Factor();
  }

  struct Chunk {
    LinearSolver* solver;
    int64_t index;
  };
  std::vector<Chunk> chunks;
  for (LinearSolver& solver : solvers) {
    for (int64_t i = 0; i < solver.num_chunks(); ++i) chunks.push_back({&solver, i});
  }
  algebra.threads().ParallelFor(static_cast<int64_t>(chunks.size()), [&](int64_t index, int) {
    const Chunk& chunk = chunks[index];
    chunk.solver->SolveChunk(chunk.index, factored, algebra);
  });

  int64_t weights = 0;
  for (const DenseLinear& linear : linears) weights += linear.weight.num_elements();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::vector<QuantizedLinear> results;
  for (size_t i = 0; i < linears.size(); ++i) {
    const double share = static_cast<double>(linears[i].weight.num_elements()) /
                         static_cast<double>(std::max<int64_t>(weights, 1));
    results.push_back(solvers[i].Finish(factored, tokens, seconds * share));
  }
  return results;
}

}  // namespace

std::vector<QuantizedLinear> QuantizeWithHessian(const Recipe& recipe, DType scale_dtype,
                                                 std::span<const DenseLinear> linears, float* h,
                                                 int64_t tokens, GptqAlgebra& algebra) {
  if (linears.empty()) return {};
  HessianFactor factor(recipe, h, linears.front().weight.shape()[1], algebra);
  if (const int64_t bad = factor.FindNonFinite(); bad >= 0) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: its calibration inputs overflow or are not numbers (input {})",
                            linears.front().module, bad));
  }
  return Solve(recipe, scale_dtype, linears, &factor, tokens, algebra);
}

std::vector<QuantizedLinear> RoundToNearest(const Recipe& recipe, DType scale_dtype,
                                            std::span<const DenseLinear> linears,
                                            GptqAlgebra& algebra) {
  return Solve(recipe, scale_dtype, linears, nullptr, 0, algebra);
}

int64_t SolverBytes(const Recipe& recipe, int64_t rows, int64_t cols, GptqAlgebra& algebra) {
  return algebra.threads().num_threads() * LinearSolver::ChunkBytes(recipe, rows, cols) +
         LinearSolver::MeasureBytes(rows, cols) + algebra.FactorScratchBytes(cols);
}

}  // namespace nibble
