// SPDX-License-Identifier: Apache-2.0
//
// What kernels share: widening of weight types, and sums over a warp and a
// block. Blocks are whole warps.

#ifndef FINDEP_CUDA_DEVICE_CUH
#define FINDEP_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "cuda/internal.h"

namespace findep {

// Shared memory whose size the launch gives.
#if !defined(FINDEP_CUDA_SHIM)
#define FINDEP_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

__device__ inline float widen(float v) { return v; }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float widen(__half v) { return __half2float(v); }

// The sum over the warp, in every lane. The order of the additions is fixed.
template <typename T>
__device__ inline T warp_sum(T v) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v += __shfl_xor_sync(kFullWarp, v, lanes);
  return v;
}

template <typename T>
__device__ inline T warp_max(T v) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v = fmax(v, __shfl_xor_sync(kFullWarp, v, lanes));
  return v;
}

// The sum over the block, in every thread; `scratch` has a place per warp and
// may be used again afterwards.
template <typename T>
__device__ inline T block_sum(T v, T* scratch) {
  v = warp_sum(v);
  const unsigned warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  if (threadIdx.x % kWarp == 0) scratch[warp] = v;
  __syncthreads();
  T total = scratch[0];
  for (unsigned w = 1; w < warps; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

template <typename T>
__device__ inline T block_max(T v, T* scratch) {
  v = warp_max(v);
  const unsigned warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  if (threadIdx.x % kWarp == 0) scratch[warp] = v;
  __syncthreads();
  T most = scratch[0];
  for (unsigned w = 1; w < warps; ++w) most = fmax(most, scratch[w]);
  __syncthreads();
  return most;
}

// The sum over the threads before this one, and over the whole block.
struct Scan {
  int before, total;
};

__device__ inline Scan block_scan(int v, int* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  int sum = v;  // of this lane and those before
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const int other = __shfl_up_sync(kFullWarp, sum, static_cast<unsigned>(lanes));
    if (lane >= lanes) sum += other;
  }
  if (lane == kWarp - 1) scratch[warp] = sum;
  __syncthreads();
  Scan scan{sum - v, 0};
  for (int w = 0; w < warps; ++w) {
    if (w < warp) scan.before += scratch[w];
    scan.total += scratch[w];
  }
  __syncthreads();
  return scan;
}

__device__ inline float silu(float v) { return v / (1.0f + expf(-v)); }

// A checked matrix of BF16.
inline View<__nv_bfloat16> bf16(const char* name, const findep_matrix& m) {
  FINDEP_REQUIRE(m.dtype == FINDEP_BF16, "%s: element type %u; it must be BF16", name, m.dtype);
  const Weight w = weight(name, m);
  return View<__nv_bfloat16>{static_cast<__nv_bfloat16*>(w.data), w.rows, w.cols, w.stride};
}

// Calls with the weight's element type: visit(static_cast<const T*>(data)).
template <typename Visit>
void with_type(const Weight& w, Visit visit) {
  switch (w.dtype) {
    case FINDEP_F32: return visit(static_cast<const float*>(w.data));
    case FINDEP_BF16: return visit(static_cast<const __nv_bfloat16*>(w.data));
    default: return visit(static_cast<const __half*>(w.data));
  }
}

}  // namespace findep

#endif  // FINDEP_CUDA_DEVICE_CUH
