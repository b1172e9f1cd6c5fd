// SPDX-License-Identifier: Apache-2.0
//
// Products by cuBLASLt. Which of its algorithms multiplies a shape is asked once
// and kept: the answer costs the host some ten microseconds, and a row's order of
// sums should not depend on how many rows come with it more than it must. Shapes
// therefore share an answer up to the next power of two of their rows.

#ifndef FINDEP_CUDA_PRODUCT_H
#define FINDEP_CUDA_PRODUCT_H

#include <array>
#include <cstdint>
#include <map>
#include <mutex>

#include "cuda/blas.h"

struct findep_stream;

namespace findep {

// For each of `batch` heads D [m,n] = op(A) [m,k] B [k,n] + beta D, column-major,
// where op(A) is A transposed or A itself. D is F32, and so are the sums; A and B
// are F32, BF16 or F16, both the same. Strides are between heads, in elements.
struct LtProduct {
  cudaDataType type;
  bool transposed;
  int64_t m, n, k, batch;
  const void* a;
  int64_t lda, stride_a;
  const void* b;
  int64_t ldb, stride_b;
  float* d;
  int64_t ldd, stride_d;
  float beta;
};

// The algorithms chosen so far on one device. Safe for concurrent use.
class LtAlgorithms {
 public:
  // Algorithms may use as much workspace, which every stream has.
  static constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;

  LtAlgorithms();
  ~LtAlgorithms();
  LtAlgorithms(const LtAlgorithms&) = delete;
  LtAlgorithms& operator=(const LtAlgorithms&) = delete;

  // False where cuBLASLt has no algorithm for the product's shape and alignment.
  bool choose(const LtProduct& product, cublasLtMatmulAlgo_t* algorithm);

  cublasLtHandle_t handle() const { return handle_; }

 private:
  // Type, transposed, m, rows, k, batch, the strides, and the alignments.
  using Key = std::array<int64_t, 15>;

  // An algorithm, or that there is none.
  struct Choice {
    bool found;
    cublasLtMatmulAlgo_t algorithm;
  };

  Choice ask(const LtProduct& product);
  Choice remembered(const LtProduct& product);

  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, Choice> choices_;
};

// Enqueues the product with an algorithm that `choose` gave for its shape.
void multiply_lt(findep_stream& stream, const LtProduct& product, const cublasLtMatmulAlgo_t& algorithm);

}  // namespace findep

#endif  // FINDEP_CUDA_PRODUCT_H
