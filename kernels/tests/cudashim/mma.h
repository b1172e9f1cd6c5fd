// SPDX-License-Identifier: Apache-2.0
//
// Fragments of tensor cores (nvcuda::wmma), as far as kernels/cuda uses them: a
// warp's 16 x 16 matrices, of which each lane has eight elements. Which ones is
// nobody's business on a GPU, and differs here between A, B and accumulators in
// an order that no kernel could guess. A call that not all lanes of a warp make
// with the same arguments, or whose address or leading dimension hardware would
// refuse, fails the launch.

#ifndef FINDEP_CUDASHIM_MMA_H
#define FINDEP_CUDASHIM_MMA_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

constexpr int kSide = 16;
constexpr int kPerLane = kSide * kSide / 32;

template <typename Use, int m, int n, int k, typename T, typename Layout = void>
struct fragment {
  static_assert(m == kSide && n == kSide && k == kSide, "only 16 x 16 x 16 is modelled");
  static constexpr int num_elements = kPerLane;
  T x[kPerLane];
};

// Element i of the running lane is number place<Use>(i) of the matrix, row by row.
template <typename Use>
int place(int i) {
  const int factor = std::is_same<Use, matrix_a>::value ? 77 : std::is_same<Use, matrix_b>::value ? 153 : 45;
  return (static_cast<int>(threadIdx.x % 32) * kPerLane + i) * factor % (kSide * kSide);
}

inline float widened(float v) { return v; }
inline float widened(__nv_bfloat16 v) { return __bfloat162float(v); }
inline float widened(__half v) { return __half2float(v); }

template <typename Use, typename T, typename Layout>
void fill_fragment(fragment<Use, kSide, kSide, kSide, T, Layout>& f, T value) {
  for (T& x : f.x) x = value;
}

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, kSide, kSide, kSide, T, Layout>& f, const T* from, unsigned ld) {
  cuda_shim::require_together(from, ld, sizeof(T));
  for (int i = 0; i < kPerLane; ++i) {
    const int row = place<Use>(i) / kSide, col = place<Use>(i) % kSide;
    f.x[i] = std::is_same<Layout, col_major>::value ? from[col * static_cast<int>(ld) + row] : from[row * static_cast<int>(ld) + col];
  }
}

inline void store_matrix_sync(float* to, const fragment<accumulator, kSide, kSide, kSide, float>& f, unsigned ld, layout_t layout) {
  cuda_shim::require_together(to, ld, sizeof(float));
  for (int i = 0; i < kPerLane; ++i) {
    const int row = place<accumulator>(i) / kSide, col = place<accumulator>(i) % kSide;
    to[layout == mem_row_major ? row * static_cast<int>(ld) + col : col * static_cast<int>(ld) + row] = f.x[i];
  }
}

template <typename T, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, kSide, kSide, kSide, float>& d, const fragment<matrix_a, kSide, kSide, kSide, T, LayoutA>& a,
              const fragment<matrix_b, kSide, kSide, kSide, T, LayoutB>& b,
              const fragment<accumulator, kSide, kSide, kSide, float>& c) {
  float* const all_a = cuda_shim::warp_scratch();
  float* const all_b = all_a + kSide * kSide;
  for (int i = 0; i < kPerLane; ++i) {
    all_a[place<matrix_a>(i)] = widened(a.x[i]);
    all_b[place<matrix_b>(i)] = widened(b.x[i]);
  }
  cuda_shim::sync_warp();
  for (int i = 0; i < kPerLane; ++i) {
    const int row = place<accumulator>(i) / kSide, col = place<accumulator>(i) % kSide;
    float sum = c.x[i];
    for (int s = 0; s < kSide; ++s) sum += all_a[row * kSide + s] * all_b[s * kSide + col];
    d.x[i] = sum;
  }
  cuda_shim::sync_warp();
}

}  // namespace wmma
}  // namespace nvcuda

#endif  // FINDEP_CUDASHIM_MMA_H
