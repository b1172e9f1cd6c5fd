// SPDX-License-Identifier: Apache-2.0
//
// F32 activations as elements of 16 bits, which tensor cores multiply: one piece
// is the value rounded to nearest even; three pieces of BF16 hold all 24 bits of
// its mantissa, eight each, and their products with a BF16 weight are exact in
// F32.

#ifndef FINDEP_CUDA_NARROW_CUH
#define FINDEP_CUDA_NARROW_CUH

#include "cuda/device.cuh"

namespace findep {

__device__ inline void narrow(float v, float* to) { *to = v; }
__device__ inline void narrow(float v, __nv_bfloat16* to) { *to = __float2bfloat16_rn(v); }
__device__ inline void narrow(float v, __half* to) { *to = __float2half_rn(v); }

// v as a weight's type has it.
template <typename T>
__device__ inline float rounded_to(float v) {
  T to;
  narrow(v, &to);
  return widen(to);
}

// The upper eight bits of the mantissa, by truncation: rounding could make a
// large number infinite, and pieces of both signs would make infinite weights NaN.
__device__ inline float upper_piece(float v) { return __uint_as_float(__float_as_uint(v) & 0xffff0000u); }

// v as kPieces numbers that add up to it, the largest first. Infinity and NaN
// have one piece.
template <int kPieces, typename T>
__device__ inline void narrow_pieces(float v, T (&pieces)[kPieces]) {
  if constexpr (kPieces == 1) {
    narrow(v, &pieces[0]);
  } else {
    if (!isfinite(v)) {
      narrow(v, &pieces[0]);
      v = 0;
    } else {
      const float upper = upper_piece(v);
      narrow(upper, &pieces[0]);
      v -= upper;
    }
    for (int p = 1; p < kPieces; ++p) {
      const float upper = upper_piece(v);
      narrow(upper, &pieces[p]);
      v -= upper;
    }
  }
}

// Eight elements that are read or written at once.
template <typename T>
struct alignas(8 * sizeof(T)) Eight {
  T v[8];
};

constexpr int kEight = 8;

// Columns [c, c+8) of a row with `cols` columns, zero beyond. `wide` rows are
// aligned to 16 bytes at every eighth column.
template <typename T>
__device__ inline Eight<T> load_eight(const T* row, int64_t c, int64_t cols, bool wide) {
  Eight<T> e;
  if (wide && c + kEight <= cols) {
    struct alignas(16) Part {
      T v[16 / sizeof(T)];
    };
    constexpr int kParts = static_cast<int>(kEight * sizeof(T) / 16);
    for (int p = 0; p < kParts; ++p) {
      const Part part = *reinterpret_cast<const Part*>(row + c + p * (kEight / kParts));
      for (int i = 0; i < kEight / kParts; ++i) e.v[p * (kEight / kParts) + i] = part.v[i];
    }
  } else {
    for (int i = 0; i < kEight; ++i) e.v[i] = c + i < cols ? row[c + i] : T{};
  }
  return e;
}

// Whether every eighth column of rows with this stride is aligned to 16 bytes.
inline bool is_wide(const void* data, int64_t stride, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * element_bytes % 16 == 0;
}

}  // namespace findep

#endif  // FINDEP_CUDA_NARROW_CUH
