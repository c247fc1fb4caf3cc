#pragma once

// A stand-in for cuSOLVER, for tests (see cuda_runtime.h in this folder): the two routines that
// linalg_cuda.cc calls, of upper triangles, in plain loops in double. Column-major, as the
// original.

#include <cublas_v2.h>

#include <cstdint>
#include <vector>

using cusolverDnHandle_t = void*;
using cusolverDnParams_t = void*;
enum cusolverStatus_t { CUSOLVER_STATUS_SUCCESS = 0, CUSOLVER_STATUS_EXECUTION_FAILED = 6 };

inline cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = nullptr;
  return CUSOLVER_STATUS_SUCCESS;
}
inline cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t) { return CUSOLVER_STATUS_SUCCESS; }
inline cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params) {
  *params = nullptr;
  return CUSOLVER_STATUS_SUCCESS;
}
inline cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t) {
  return CUSOLVER_STATUS_SUCCESS;
}
inline cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t, cudaStream_t) {
  return CUSOLVER_STATUS_SUCCESS;
}
inline cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t, cusolverDnParams_t,
                                                    cublasFillMode_t, int64_t, cudaDataType,
                                                    const void*, int64_t, cudaDataType,
                                                    size_t* device_bytes, size_t* host_bytes) {
  *device_bytes = 64;
  *host_bytes = 8;
  return CUSOLVER_STATUS_SUCCESS;
}
inline cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t, cublasFillMode_t,
                                                    cublasDiagType_t, int64_t, cudaDataType, void*,
                                                    int64_t, size_t* device_bytes,
                                                    size_t* host_bytes) {
  *device_bytes = 32;
  *host_bytes = 16;
  return CUSOLVER_STATUS_SUCCESS;
}

// A = U^T U; U over the upper triangle.
inline cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t, cusolverDnParams_t,
                                         cublasFillMode_t triangle, int64_t n, cudaDataType,
                                         void* matrix, int64_t lda, cudaDataType, void*, size_t,
                                         void*, size_t, int* info) {
  if (triangle != CUBLAS_FILL_MODE_UPPER) return CUSOLVER_STATUS_EXECUTION_FAILED;
  auto* a = static_cast<float*>(matrix);
  std::vector<double> u(static_cast<size_t>(n * n));
  const auto at = [n](int64_t row, int64_t col) { return static_cast<size_t>(row + col * n); };
  *info = 0;
  for (int64_t col = 0; col < n; ++col) {
    for (int64_t row = 0; row <= col; ++row) {
      double sum = static_cast<double>(a[row + col * lda]);
      for (int64_t k = 0; k < row; ++k) sum -= u[at(k, row)] * u[at(k, col)];
      if (row == col && !(sum > 0)) {
        *info = static_cast<int>(col + 1);
        return CUSOLVER_STATUS_SUCCESS;
      }
      u[at(row, col)] = row == col ? std::sqrt(sum) : sum / u[at(row, row)];
      a[row + col * lda] = static_cast<float>(u[at(row, col)]);
    }
  }
  return CUSOLVER_STATUS_SUCCESS;
}

// The upper triangle's inverse in its place.
inline cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t, cublasFillMode_t triangle,
                                         cublasDiagType_t, int64_t n, cudaDataType, void* matrix,
                                         int64_t lda, void*, size_t, void*, size_t, int* info) {
  if (triangle != CUBLAS_FILL_MODE_UPPER) return CUSOLVER_STATUS_EXECUTION_FAILED;
  auto* a = static_cast<float*>(matrix);
  std::vector<double> inverse(static_cast<size_t>(n * n));
  const auto at = [n](int64_t row, int64_t col) { return static_cast<size_t>(row + col * n); };
  for (int64_t col = 0; col < n; ++col) {
    for (int64_t row = col; row >= 0; --row) {
      double sum = row == col ? 1 : 0;
      for (int64_t k = row + 1; k <= col; ++k) {
        sum -= static_cast<double>(a[row + k * lda]) * inverse[at(k, col)];
      }
      inverse[at(row, col)] = sum / static_cast<double>(a[row + row * lda]);
    }
  }
  for (int64_t col = 0; col < n; ++col) {
    for (int64_t row = 0; row <= col; ++row)
      a[row + col * lda] = static_cast<float>(inverse[at(row, col)]);
  }
  *info = 0;
  return CUSOLVER_STATUS_SUCCESS;
}
