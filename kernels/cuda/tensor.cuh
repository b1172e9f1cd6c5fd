// SPDX-License-Identifier: Apache-2.0
//
// One tile of a product on the tensor cores: 64 rows of x with 64 rows of w, by a
// block of 128 threads. x is F32 in memory and becomes elements of w's type, T, in
// one piece or in several that add up to it (narrow.cuh); sums are F32.
//   1. each thread loads its part of the next 32 columns of both to registers,
//      while the warps multiply the present ones
//   2. they go to shared memory, x narrowed on the way
//   3. each warp multiplies 32 rows with 32 outputs, the smallest piece of x first
//   4. when all columns are done, `finish` makes one number of each place's sums,
//      and `store` gets it
// A sum's order of additions depends on neither n nor the block, so that a row
// comes out the same in every batch.

#ifndef FINDEP_CUDA_TENSOR_CUH
#define FINDEP_CUDA_TENSOR_CUH

#include <mma.h>

#include "cuda/narrow.cuh"

namespace findep {

constexpr int kTensorTile = 64;
constexpr int kTensorDepth = 32;
constexpr int kTensorThreads = 128;
constexpr int kFragment = 16;
constexpr int kWarpTile = 32;
constexpr int kWarpFragments = kWarpTile / kFragment;
// Rows of shared memory are padded, so that neighbours lie in different banks.
constexpr int kTensorStride = kTensorDepth + 8;
constexpr int kSumsStride = kTensorTile + 4;
constexpr int kDepthGroups = kTensorDepth / kEight;
// Groups of eight columns of 64 rows that one thread loads.
constexpr int kGroupsPerThread = kTensorTile * kDepthGroups / kTensorThreads;

// kProducts weights are multiplied with the same rows (gate and up).
template <typename T, int kPieces, int kProducts>
union alignas(32) TensorShared {
  struct {
    T x[kPieces][kTensorTile][kTensorStride];
    T w[kProducts][kTensorTile][kTensorStride];
  } tile;
  float sums[kTensorTile][kSumsStride];
};

// What a thread has loaded and not yet put to shared memory.
template <typename T, int kProducts>
struct TensorNext {
  Eight<float> x[kGroupsPerThread];
  Eight<T> w[kProducts][kGroupsPerThread];
};

template <typename T>
using FragmentA = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, kFragment, kFragment, kFragment, T, nvcuda::wmma::row_major>;
template <typename T>
using FragmentB = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, kFragment, kFragment, kFragment, T, nvcuda::wmma::col_major>;
using FragmentSums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kFragment, kFragment, kFragment, float>;

template <int kProducts>
struct TensorSums {
  FragmentSums of[kProducts][kWarpFragments][kWarpFragments];
};

// Step 1 for columns [depth, depth + 32).
template <typename T, int kProducts, typename X, typename W>
__device__ void tensor_load(TensorNext<T, kProducts>& next, int64_t depth, X x, W w) {
  for (int g = 0; g < kGroupsPerThread; ++g) {
    const int group = g * kTensorThreads + static_cast<int>(threadIdx.x);
    const int r = group / kDepthGroups;
    const int64_t c = depth + group % kDepthGroups * kEight;
    next.x[g] = x(r, c);
    for (int p = 0; p < kProducts; ++p) next.w[p][g] = w(p, r, c);
  }
}

// Step 2.
template <typename T, int kPieces, int kProducts>
__device__ void tensor_share(TensorShared<T, kPieces, kProducts>& shared, const TensorNext<T, kProducts>& next) {
  for (int g = 0; g < kGroupsPerThread; ++g) {
    const int group = g * kTensorThreads + static_cast<int>(threadIdx.x);
    const int r = group / kDepthGroups, c = group % kDepthGroups * kEight;
    Eight<T> narrowed[kPieces];
    for (int i = 0; i < kEight; ++i) {
      T pieces[kPieces];
      narrow_pieces<kPieces>(next.x[g].v[i], pieces);
      for (int p = 0; p < kPieces; ++p) narrowed[p].v[i] = pieces[p];
    }
    for (int p = 0; p < kPieces; ++p) *reinterpret_cast<Eight<T>*>(&shared.tile.x[p][r][c]) = narrowed[p];
    for (int p = 0; p < kProducts; ++p) *reinterpret_cast<Eight<T>*>(&shared.tile.w[p][r][c]) = next.w[p][g];
  }
}

// Where the warp's 32 x 32 elements begin.
struct WarpPlace {
  int row, output;
};

__device__ inline WarpPlace warp_place() {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, across = kTensorTile / kWarpTile;
  return WarpPlace{warp / across * kWarpTile, warp % across * kWarpTile};
}

// Step 3.
template <typename T, int kPieces, int kProducts>
__device__ void tensor_multiply(const TensorShared<T, kPieces, kProducts>& shared, TensorSums<kProducts>& sums) {
  using namespace nvcuda;
  const WarpPlace at = warp_place();
  for (int c = 0; c < kTensorDepth; c += kFragment) {
    FragmentB<T> b[kProducts][kWarpFragments];
    for (int p = 0; p < kProducts; ++p) {
      for (int o = 0; o < kWarpFragments; ++o) {
        wmma::load_matrix_sync(b[p][o], &shared.tile.w[p][at.output + o * kFragment][c], kTensorStride);
      }
    }
    for (int piece = kPieces - 1; piece >= 0; --piece) {
      for (int i = 0; i < kWarpFragments; ++i) {
        FragmentA<T> a;
        wmma::load_matrix_sync(a, &shared.tile.x[piece][at.row + i * kFragment][c], kTensorStride);
        for (int p = 0; p < kProducts; ++p) {
          for (int o = 0; o < kWarpFragments; ++o) wmma::mma_sync(sums.of[p][i][o], a, b[p][o], sums.of[p][i][o]);
        }
      }
    }
  }
}

// Step 4.
template <typename T, int kPieces, int kProducts, typename Finish, typename Store>
__device__ void tensor_store(TensorShared<T, kPieces, kProducts>& shared, TensorSums<kProducts>& sums, int64_t n,
                             int64_t outputs, Finish finish, Store store) {
  using namespace nvcuda;
  const WarpPlace at = warp_place();
  for (int i = 0; i < kWarpFragments; ++i) {
    for (int o = 0; o < kWarpFragments; ++o) {
      // Fragments of one shape have the same elements in the same places.
      for (int e = 0; e < FragmentSums::num_elements; ++e) {
        float of_place[kProducts];
        for (int p = 0; p < kProducts; ++p) of_place[p] = sums.of[p][i][o].x[e];
        sums.of[0][i][o].x[e] = finish(of_place);
      }
      wmma::store_matrix_sync(&shared.sums[at.row + i * kFragment][at.output + o * kFragment], sums.of[0][i][o], kSumsStride,
                              wmma::mem_row_major);
    }
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < kTensorTile * kTensorTile; e += kTensorThreads) {
    const int r = e / kTensorTile, o = e % kTensorTile;
    if (r < n && o < outputs) store(r, o, shared.sums[r][o]);
  }
  __syncthreads();
}

// x(r, c) is columns [c, c+8) of row r and w(p, o, c) those of output o of product
// p, zero where there are none; store(r, o, v) gets rows r < n and outputs o <
// outputs of the tile.
template <typename T, int kPieces, int kProducts, typename X, typename W, typename Finish, typename Store>
__device__ void tensor_tile(TensorShared<T, kPieces, kProducts>& shared, int64_t n, int64_t outputs, int64_t in, X x, W w,
                            Finish finish, Store store) {
  TensorSums<kProducts> sums;
  for (auto& product : sums.of) {
    for (auto& row : product) {
      for (auto& fragment : row) nvcuda::wmma::fill_fragment(fragment, 0.0f);
    }
  }
  TensorNext<T, kProducts> next;
  tensor_load(next, 0, x, w);
  for (int64_t depth = 0; depth < in; depth += kTensorDepth) {
    tensor_share(shared, next);
    __syncthreads();
    if (depth + kTensorDepth < in) tensor_load(next, depth + kTensorDepth, x, w);
    tensor_multiply(shared, sums);
    __syncthreads();
  }
  tensor_store(shared, sums, n, outputs, finish, store);
}

}  // namespace findep

#endif  // FINDEP_CUDA_TENSOR_CUH
