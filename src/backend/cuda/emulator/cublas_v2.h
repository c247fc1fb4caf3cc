#pragma once

// A stand-in for cuBLAS, for tests (see cuda_runtime.h in this folder): what linalg_cuda.cc calls,
// in plain loops with sums in double. Column-major, as the original.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

using cublasHandle_t = void*;
enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_EXECUTION_FAILED = 13
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasFillMode_t { CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_UPPER };
enum cublasDiagType_t { CUBLAS_DIAG_NON_UNIT };
enum cudaDataType { CUDA_R_32F, CUDA_R_16BF };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };

inline cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) {
  return CUBLAS_STATUS_SUCCESS;
}

// C [m, n] = alpha op(A) op(B) + beta C.
inline cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b,
                                   int m, int n, int k, const void* alpha, const void* a,
                                   cudaDataType type_a, int lda, const void* b, cudaDataType type_b,
                                   int ldb, const void* beta, void* c, cudaDataType, int ldc,
                                   cublasComputeType_t, cublasGemmAlgo_t) {
  const auto read = [](const void* matrix, cudaDataType type, int64_t at) {
    return static_cast<double>(
        type == CUDA_R_32F ? static_cast<const float*>(matrix)[at]
                           : __bfloat162float(static_cast<const __nv_bfloat16*>(matrix)[at]));
  };
  if (lda < (op_a == CUBLAS_OP_N ? m : k) || ldb < (op_b == CUBLAS_OP_N ? k : n) || ldc < m) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += read(a, type_a, op_a == CUBLAS_OP_N ? i + l * lda : l + i * lda) *
               read(b, type_b, op_b == CUBLAS_OP_N ? l + j * ldb : j + l * ldb);
      }
      float& out = static_cast<float*>(c)[i + j * ldc];
      if (*static_cast<const float*>(beta) == 0) out = 0;  // not read: may be anything
      out = static_cast<float>(static_cast<double>(*static_cast<const float*>(alpha)) * sum +
                               static_cast<double>(*static_cast<const float*>(beta) * out));
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t op_a,
                                  cublasOperation_t op_b, int m, int n, int k, const float* alpha,
                                  const float* a, int lda, const float* b, int ldb,
                                  const float* beta, float* c, int ldc) {
  return cublasGemmEx(handle, op_a, op_b, m, n, k, alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F, ldb,
                      beta, c, CUDA_R_32F, ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
