// SPDX-License-Identifier: Apache-2.0

#ifndef FINDEP_CUDASHIM_CUDA_BF16_H
#define FINDEP_CUDASHIM_CUDA_BF16_H

#include <stdint.h>
#include <string.h>

struct __nv_bfloat16 {
  uint16_t bits;
};

// The upper half of an F32.
inline float __bfloat162float(__nv_bfloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float f;
  memcpy(&f, &bits, sizeof(f));
  return f;
}

// To nearest, ties to even; NaN becomes the one NaN that GPUs make.
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof(bits));
  if (v != v) return __nv_bfloat16{0x7fff};
  return __nv_bfloat16{static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

#endif  // FINDEP_CUDASHIM_CUDA_BF16_H
