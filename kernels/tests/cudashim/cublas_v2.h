// SPDX-License-Identifier: Apache-2.0
//
// The part of cuBLAS that kernels/cuda calls: its one product is a plain loop.

#ifndef FINDEP_CUDASHIM_CUBLAS_V2_H
#define FINDEP_CUDASHIM_CUBLAS_V2_H

#include <cuda_runtime.h>

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS,
  CUBLAS_STATUS_ALLOC_FAILED,
  CUBLAS_STATUS_INVALID_VALUE,
  CUBLAS_STATUS_NOT_SUPPORTED,
  CUBLAS_STATUS_ARCH_MISMATCH,
  CUBLAS_STATUS_EXECUTION_FAILED
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cudaDataType { CUDA_R_32F };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F_PEDANTIC };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };
enum cublasMath_t { CUBLAS_PEDANTIC_MATH };

typedef struct cublasShimHandle* cublasHandle_t;

const char* cublasGetStatusString(cublasStatus_t status);
cublasStatus_t cublasCreate(cublasHandle_t* handle);
cublasStatus_t cublasDestroy(cublasHandle_t handle);
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream);
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes);
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode);

// Column-major: C [m,n] = alpha op(A) [m,k] B [k,n] + beta C, F32 throughout;
// op(B) is CUBLAS_OP_N. Refuses what cuBLAS documents as invalid.
cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                                             int64_t m, int64_t n, int64_t k, const void* alpha, const void* a,
                                             cudaDataType type_a, int64_t lda, int64_t stride_a, const void* b,
                                             cudaDataType type_b, int64_t ldb, int64_t stride_b, const void* beta,
                                             void* c, cudaDataType type_c, int64_t ldc, int64_t stride_c,
                                             int64_t batch, cublasComputeType_t compute, cublasGemmAlgo_t algorithm);

#endif  // FINDEP_CUDASHIM_CUBLAS_V2_H
