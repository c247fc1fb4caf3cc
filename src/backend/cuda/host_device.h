#pragma once

// Index maps, bit tricks and partitions are plain functions that kernels call and that tests run on
// the host. Headers that use these macros include nothing of CUDA and compile with every C++
// compiler.
#ifdef __CUDACC__
#define NIBBLE_HOST_DEVICE __host__ __device__
#else
#define NIBBLE_HOST_DEVICE
#endif

// Parts of kernels that a C++ compiler builds too, for an emulated warp (warp.h).
#ifdef __CUDACC__
#define NIBBLE_DEVICE __device__ __forceinline__
#else
#define NIBBLE_DEVICE inline
#endif

// Unrolls the loop that follows where the compiler is nvcc; others decide for themselves.
#ifdef __CUDA_ARCH__
#define NIBBLE_CUDA_UNROLL _Pragma("unroll")
#else
#define NIBBLE_CUDA_UNROLL
#endif
