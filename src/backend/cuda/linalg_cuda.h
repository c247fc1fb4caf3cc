#pragma once

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include <cstdint>

#include "backend/cuda/column_block.cuh"

// GPTQ's algebra on a GPU: Gram matrices by cuBLAS, factors by cuSOLVER, columns by a kernel of our
// own. Matrices are row-major fp32 unless said. Nothing here allocates: a caller owns handles,
// workspace and stream. The status of whichever library failed says what went wrong.
namespace nibble::cuda {

// H += X^T X, upper triangle; the part below the diagonal may be overwritten with unspecified
// values. Products of bf16 are exact in fp32.
//   x  [rows, cols] bf16
//   h  [cols, cols]
cublasStatus_t GramUpdate(cublasHandle_t handle, const __nv_bfloat16* x, int64_t rows, int64_t cols,
                          float* h);

struct FactorWorkspace {
  size_t device_bytes = 0;
  size_t host_bytes = 0;
};
cusolverStatus_t FactorWorkspaceSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                     int64_t n, FactorWorkspace* size);

// Replaces the upper triangle of H [n, n] by U of H^-1 = U^T U, as Linalg::InverseCholesky does:
// the factor of H with its indices reversed, inverted, reversed again; no inverse of H is formed.
// The part below the diagonal is overwritten. info[0] and info[1] (on the device; for the factor
// and for its inverse) are 0, or the position, counted from the last row, of a pivot that was not
// positive.
cusolverStatus_t InverseCholesky(cusolverDnHandle_t handle, cusolverDnParams_t params, float* h,
                                 int64_t n, void* device_workspace, void* host_workspace,
                                 const FactorWorkspace& size, int* info, cudaStream_t stream);

// W[:, first + columns ..] -= E U[first .. first + columns, first + columns ..]: the update of the
// columns after a block.
//   weights  [rows, cols]
//   errors   [rows, kBlockColumns], as ColumnBlock gives them
//   factor   [cols, cols], upper triangle
cublasStatus_t SpreadErrors(cublasHandle_t handle, const float* errors, const float* factor,
                            float* weights, int64_t rows, int64_t cols, int64_t first,
                            int64_t columns);

}  // namespace nibble::cuda
