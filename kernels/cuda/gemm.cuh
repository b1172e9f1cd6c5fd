// SPDX-License-Identifier: Apache-2.0
//
// One tile of a product on the CUDA cores, in F32: 64 rows of x with 64 rows of
// w, by a block of 256 threads.
//   1. 16 columns of both go to shared memory, widened
//   2. every thread multiplies 4 rows with 4 outputs, one column after the other
//   3. when all columns are done, `store` gets each sum
// A sum's order of additions depends on neither n nor the block, so that a row
// comes out the same in every batch.
//
// For what tensor cores do not take: F32 weights of experts, and weights of 16
// bits with activations of 32 or at addresses that no library's kernel reads.

#ifndef FINDEP_CUDA_GEMM_CUH
#define FINDEP_CUDA_GEMM_CUH

#include "cuda/device.cuh"

namespace findep {

constexpr int kTile = 64;
constexpr int kTileDepth = 16;
constexpr int kTileThreads = 256;
constexpr int kTileSide = 4;  // rows, and outputs, of a thread

// kProducts weights are multiplied with the same rows (gate and up).
template <int kProducts>
struct GemmShared {
  float x[kTileDepth][kTile + 1];
  float w[kProducts][kTileDepth][kTile + 1];
};

// x(i, c) is row i < n of the tile's rows, w(p, o, c) output o < outputs of
// product p, both for columns c < in; store(i, o, sums) takes kProducts sums.
template <int kProducts, typename X, typename W, typename Store>
__device__ void gemm_tile(GemmShared<kProducts>& shared, int64_t n, int64_t outputs, int64_t in, X x, W w, Store store) {
  const int tid = static_cast<int>(threadIdx.x), side = kTile / kTileSide;
  const int my_row = tid / side, my_output = tid % side;
  float sums[kProducts][kTileSide][kTileSide] = {};
  for (int64_t depth = 0; depth < in; depth += kTileDepth) {
    for (int i = tid; i < kTile * kTileDepth; i += kTileThreads) {
      const int r = i / kTileDepth, c = i % kTileDepth;
      const bool inside = depth + c < in;
      shared.x[c][r] = inside && r < n ? x(r, depth + c) : 0.0f;
      for (int p = 0; p < kProducts; ++p) shared.w[p][c][r] = inside && r < outputs ? w(p, r, depth + c) : 0.0f;
    }
    __syncthreads();
    for (int c = 0; c < kTileDepth; ++c) {
      for (int i = 0; i < kTileSide; ++i) {
        const float value = shared.x[c][my_row + i * side];
        for (int p = 0; p < kProducts; ++p) {
          for (int o = 0; o < kTileSide; ++o) {
            sums[p][i][o] = fmaf(value, shared.w[p][c][my_output + o * side], sums[p][i][o]);
          }
        }
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < kTileSide; ++i) {
    for (int o = 0; o < kTileSide; ++o) {
      if (my_row + i * side >= n || my_output + o * side >= outputs) continue;
      float result[kProducts];
      for (int p = 0; p < kProducts; ++p) result[p] = sums[p][i][o];
      store(my_row + i * side, my_output + o * side, result);
    }
  }
}

}  // namespace findep

#endif  // FINDEP_CUDA_GEMM_CUH
