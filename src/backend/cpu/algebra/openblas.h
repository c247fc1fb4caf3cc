#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace nibble {

// The few single-thread routines of OpenBLAS that GPTQ needs, by function pointer: the library
// picks its kernels once, while it is being loaded, and picks badly on processors younger than
// itself (at a fifth of the speed) or where the shell exports OPENBLAS_CORETYPE. So it is loaded
// here, at run time, after the right kernel family has been named for it. Matrices are row-major.
//
// Thread-safe; each call runs on the calling thread alone.
class OpenBlas {
 public:
  // With the kernels for an instruction set, by the name that NIBBLE_INSTRUCTION_SET has for it, or
  // if that is empty the best this machine has. The first object of a process decides for all.
  // Throws kNotFound naming the package to install.
  explicit OpenBlas(std::string_view instruction_set = {});

  const std::string& version() const { return version_; }  // "0.3.21"
  const std::string& core() const { return core_; }        // "SkylakeX"

  // C[m, n] += alpha op(A) op(B); op(A) is [m, k], op(B) [k, n].
  void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
            const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) const;

  // Upper triangle of C[n, n] += X^T X, X [k, n].
  void GramUpper(int64_t n, int64_t k, const float* x, int64_t ldx, float* c, int64_t ldc) const;

  // Upper triangle of C[n, n] -= X X^T, X [n, k].
  void SubtractOuter(int64_t n, int64_t k, const float* x, int64_t ldx, float* c,
                     int64_t ldc) const;

  // B[m, n] := B U, or B U^T if `transpose`, U [n, n] upper triangular (what lies below its
  // diagonal is not read).
  void MultiplyByUpper(bool transpose, int64_t m, int64_t n, const float* u, int64_t ldu, float* b,
                       int64_t ldb) const;

  // B[m, n] := -U B, U [m, m] upper triangular.
  void NegatedUpperTimes(int64_t m, int64_t n, const float* u, int64_t ldu, float* b,
                         int64_t ldb) const;

 private:
  void* Symbol(const char* name) const;

  std::unique_ptr<void, int (*)(void*)> library_;
  std::string version_;
  std::string core_;
  void (*gemm_)(int, int, int, int, int, int, float, const float*, int, const float*, int, float,
                float*, int) = nullptr;
  void (*syrk_)(int, int, int, int, int, float, const float*, int, float, float*, int) = nullptr;
  void (*trmm_)(int, int, int, int, int, int, int, float, const float*, int, float*, int) = nullptr;
};

}  // namespace nibble
