// SPDX-License-Identifier: Apache-2.0
//
// cuBLAS, looked up when the first device is opened: a machine without GPUs need
// not have its 600 MB, and one with GPUs is told what to install.

#ifndef FINDEP_CUDA_BLAS_H
#define FINDEP_CUDA_BLAS_H

#include <cublas_v2.h>

namespace findep {

struct Blas {
  decltype(&::cublasCreate) create;
  decltype(&::cublasDestroy) destroy;
  decltype(&::cublasSetStream) set_stream;
  decltype(&::cublasSetWorkspace) set_workspace;
  decltype(&::cublasSetMathMode) set_math_mode;
  decltype(&::cublasGetStatusString) status_string;
  decltype(&::cublasGemmStridedBatchedEx_64) gemm_strided_batched;
};

// Loads the library at the first call: the file that FINDEP_CUBLAS_LIBRARY
// names, else libcublas.so.13 beside this library, else on the loader's path.
// Fails with FINDEP_NO_LIBRARY where there is none.
const Blas& blas();

}  // namespace findep

#endif  // FINDEP_CUDA_BLAS_H
