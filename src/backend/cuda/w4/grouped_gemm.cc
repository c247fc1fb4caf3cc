#include "backend/cuda/w4/grouped_gemm.h"

namespace nibble::cuda {

cublasStatus_t GroupedW4Gemm(cublasHandle_t handle, const GroupedW4GemmArgs& args,
                             cudaStream_t stream) {
  const W4GemmArgs& gemm = args.gemm;
  const auto rows = static_cast<int>(gemm.layout.rows);
  const auto cols = static_cast<int>(gemm.layout.cols);
  if (gemm.x_rows != nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t bound = cublasSetStream(handle, stream);
  if (bound != CUBLAS_STATUS_SUCCESS) return bound;
  for (int32_t expert = 0; expert < gemm.num_experts; ++expert) {
    const int32_t first = args.host_offsets == nullptr ? 0 : args.host_offsets[expert];
    const int32_t end =
        args.host_offsets == nullptr ? gemm.num_rows : args.host_offsets[expert + 1];
    if (first == end) continue;
    const DequantizeW4Args dequantize = {
        gemm.layout, gemm.weights + expert * gemm.layout.size_bytes(), args.weight};
    if (LaunchDequantizeW4(dequantize, stream) != cudaSuccess)
      return CUBLAS_STATUS_EXECUTION_FAILED;
    // Row-major sums = x W^T are, column by column, sums^T = W x^T.
    const float one = 1;
    const float zero = 0;
    const cublasStatus_t status =
        cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, rows, end - first, cols, &one, args.weight,
                     CUDA_R_16BF, cols, gemm.x + int64_t{first} * cols, CUDA_R_16BF, cols, &zero,
                     args.sums, CUDA_R_32F, rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (LaunchStoreW4Sums(gemm, args.sums, first, end - first, stream) != cudaSuccess) {
      return CUBLAS_STATUS_EXECUTION_FAILED;
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace nibble::cuda
