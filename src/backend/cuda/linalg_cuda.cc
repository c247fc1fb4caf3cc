#include "backend/cuda/linalg_cuda.h"

#include <algorithm>

// The libraries are column-major: they see the transpose of each matrix here, and the lower
// triangle where we say the upper.
namespace nibble::cuda {

cublasStatus_t GramUpdate(cublasHandle_t handle, const __nv_bfloat16* x, int64_t rows, int64_t cols,
                          float* h) {
  // Below the diagonal only each panel's own square is computed: 56 % of H at 16384 columns.
  constexpr int64_t kPanel = 2048;
  const float one = 1;
  for (int64_t first = 0; first < cols; first += kPanel) {
    const int64_t width = std::min(kPanel, cols - first);
    const cublasStatus_t status = cublasGemmEx(
        handle, CUBLAS_OP_N, CUBLAS_OP_T, static_cast<int>(cols - first), static_cast<int>(width),
        static_cast<int>(rows), &one, x + first, CUDA_R_16BF, static_cast<int>(cols), x + first,
        CUDA_R_16BF, static_cast<int>(cols), &one, h + first * cols + first, CUDA_R_32F,
        static_cast<int>(cols), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cusolverStatus_t FactorWorkspaceSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                     int64_t n, FactorWorkspace* size) {
  size_t device_bytes = 0;
  size_t host_bytes = 0;
  const cusolverStatus_t status =
      cusolverDnXpotrf_bufferSize(handle, params, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_32F, nullptr, n,
                                  CUDA_R_32F, &device_bytes, &host_bytes);
  if (status != CUSOLVER_STATUS_SUCCESS) return status;
  const cusolverStatus_t inverse_status =
      cusolverDnXtrtri_bufferSize(handle, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n,
                                  CUDA_R_32F, nullptr, n, &size->device_bytes, &size->host_bytes);
  size->device_bytes = std::max(size->device_bytes, device_bytes);
  size->host_bytes = std::max(size->host_bytes, host_bytes);
  return inverse_status;
}

// With J the reversal of indices, J H J is H's numbers in reverse, and its lower triangle is H's
// upper one. cuSOLVER's upper factor of it, column by column, is the lower factor M of J H J = M
// M^T, row by row; inverted and reversed again it is U = J M^-1 J.
cusolverStatus_t InverseCholesky(cusolverDnHandle_t handle, cusolverDnParams_t params, float* h,
                                 int64_t n, void* device_workspace, void* host_workspace,
                                 const FactorWorkspace& size, int* info, cudaStream_t stream) {
  cusolverStatus_t status = cusolverDnSetStream(handle, stream);
  if (status != CUSOLVER_STATUS_SUCCESS) return status;
  if (LaunchReverse(h, n * n, stream) != cudaSuccess) return CUSOLVER_STATUS_EXECUTION_FAILED;
  status =
      cusolverDnXpotrf(handle, params, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_32F, h, n, CUDA_R_32F,
                       device_workspace, size.device_bytes, host_workspace, size.host_bytes, info);
  if (status != CUSOLVER_STATUS_SUCCESS) return status;
  status = cusolverDnXtrtri(handle, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_32F, h,
                            n, device_workspace, size.device_bytes, host_workspace, size.host_bytes,
                            info + 1);
  if (status != CUSOLVER_STATUS_SUCCESS) return status;
  return LaunchReverse(h, n * n, stream) == cudaSuccess ? CUSOLVER_STATUS_SUCCESS
                                                        : CUSOLVER_STATUS_EXECUTION_FAILED;
}

cublasStatus_t SpreadErrors(cublasHandle_t handle, const float* errors, const float* factor,
                            float* weights, int64_t rows, int64_t cols, int64_t first,
                            int64_t columns) {
  const int64_t rest = cols - first - columns;
  if (rest <= 0) return CUBLAS_STATUS_SUCCESS;
  const float minus_one = -1;
  const float one = 1;
  return cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, static_cast<int>(rest),
                     static_cast<int>(rows), static_cast<int>(columns), &minus_one,
                     factor + first * cols + first + columns, static_cast<int>(cols), errors,
                     kBlockColumns, &one, weights + first + columns, static_cast<int>(cols));
}

}  // namespace nibble::cuda
