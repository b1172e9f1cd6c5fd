// SPDX-License-Identifier: Apache-2.0
//
// cuBLASLt, looked up when the first device is opened: a machine without GPUs need
// not have its 500 MB, and one with GPUs is told what to install.

#ifndef FINDEP_CUDA_BLAS_H
#define FINDEP_CUDA_BLAS_H

#include <cublasLt.h>

namespace findep {

struct Blas {
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtDestroy) destroy;
  decltype(&::cublasLtGetStatusString) status_string;
  decltype(&::cublasLtMatmulDescInit_internal) desc_init;
  decltype(&::cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&::cublasLtMatrixLayoutInit_internal) layout_init;
  decltype(&::cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&::cublasLtMatmulPreferenceInit_internal) preference_init;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&::cublasLtMatmulAlgoCheck) check;
  decltype(&::cublasLtMatmul) matmul;
};

// Loads the library at the first call: the file that FINDEP_CUBLASLT_LIBRARY
// names, else libcublasLt.so.13 beside this library, else on the loader's path.
// Fails with FINDEP_NO_LIBRARY where there is none.
const Blas& blas();

}  // namespace findep

#endif  // FINDEP_CUDA_BLAS_H
