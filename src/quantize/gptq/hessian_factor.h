#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/gptq_algebra.h"
#include "quantize/recipe.h"

namespace nibble {

// Turns the Hessian of one input into the factor U for the column sweep.
//
// The n x n array serves twice: its upper triangle becomes U, its strict lower triangle keeps H, so
// that a failed factorisation can be repeated with more damping without a second array of a
// gigabyte.
class HessianFactor {
 public:
  // `h` holds X^T X in its upper triangle and is used as long as this object lives. H is 2 X^T X,
  // as in the paper.
  HessianFactor(const Recipe& recipe, float* h, int64_t n, GptqAlgebra& algebra);

  int64_t size() const { return n_; }
  // Of H, in the order of the weights.
  std::span<const float> diagonal() const { return diagonal_; }
  bool is_dead(int64_t column) const { return diagonal_[column] == 0; }
  int64_t num_dead() const;
  // The column at each position of the sweep: the identity, or by decreasing diagonal.
  std::span<const int32_t> order() const { return order_; }
  // Index of a diagonal element of H that is not finite, or -1.
  int64_t FindNonFinite() const;

  // x^T H x of each column x of an [n, count] matrix in the order of the weights. Before Factor
  // only.
  std::vector<double> QuadraticForms(const float* x, int64_t count) const;

  // Permutes, damps and factors H, with increasing damping until it succeeds. False if all attempts
  // fail.
  bool Factor();

  // After Factor: row i of U, columns [i, n) valid, in sweep order.
  const float* factor() const { return h_; }
  double dampening() const { return dampening_; }         // the fraction that succeeded
  float damping_added() const { return damping_added_; }  // the value added to the diagonal
  int retries() const { return retries_; }

 private:
  void SaveLower();
  void RestoreUpper();

  const Recipe* recipe_;
  float* h_;
  int64_t n_;
  GptqAlgebra* algebra_;
  std::vector<float> diagonal_;
  std::vector<int32_t> order_;
  double dampening_ = 0;
  float damping_added_ = 0;
  int retries_ = 0;
};

}  // namespace nibble
