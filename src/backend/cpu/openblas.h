#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace nibble {

// The few single-thread routines of OpenBLAS that GPTQ needs, by function pointer: the library
// picks its kernels once, while it is being loaded, and picks badly on processors younger than
// itself (a fifth of the speed) or where the shell exports OPENBLAS_CORETYPE. So it is loaded here,
// at run time, after the right kernel family has been named for it. Matrices are row-major.
//
// Calls may come from several threads at once; each runs on its caller alone.
class OpenBlas {
 public:
  OpenBlas();  // throws kNotFound naming the package to install

  const std::string& core() const { return core_; }  // "SkylakeX"

  // C[m, n] += alpha op(A) op(B); op(A) is [m, k], op(B) [k, n].
  void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) const;

  // Upper triangle of C[n, n] += X^T X, X [k, n].
  void GramUpper(int64_t n, int64_t k, const float* x, int64_t ldx, float* c, int64_t ldc) const;

  // B[m, n] := alpha B R^-1, or alpha B R^-T if `transpose`; R [n, n] upper triangular.
  void SolveUpperRight(bool transpose, int64_t m, int64_t n, float alpha, const float* r,
                       int64_t ldr, float* b, int64_t ldb) const;

  // A = L L^T in the lower triangle of A[n, n]. Returns -1, or the index of a pivot that is not
  // positive and finite.
  int64_t CholeskyLower(int64_t n, float* a, int64_t lda) const;

  // Inverts the upper triangular R[n, n] in place.
  void InvertUpper(int64_t n, float* r, int64_t ldr) const;

 private:
  void* Symbol(const char* name) const;

  std::unique_ptr<void, int (*)(void*)> library_;
  std::string core_;
  void (*gemm_)(int, int, int, int, int, int, float, const float*, int, const float*, int, float,
                float*, int) = nullptr;
  void (*syrk_)(int, int, int, int, int, float, const float*, int, float, float*, int) = nullptr;
  void (*trsm_)(int, int, int, int, int, int, int, float, const float*, int, float*, int) = nullptr;
  void (*potrf_)(const char*, const int*, float*, const int*, int*) = nullptr;
  void (*trtri_)(const char*, const char*, const int*, float*, const int*, int*) = nullptr;
};

}  // namespace nibble
