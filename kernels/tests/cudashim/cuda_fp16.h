// SPDX-License-Identifier: Apache-2.0

#ifndef FINDEP_CUDASHIM_CUDA_FP16_H
#define FINDEP_CUDASHIM_CUDA_FP16_H

#include <math.h>
#include <stdint.h>

struct __half {
  uint16_t bits;
};

// IEEE 754 binary16: 1 bit of sign, 5 of exponent, 10 of mantissa.
inline float __half2float(__half v) {
  const int exponent = v.bits >> 10 & 31, mantissa = v.bits & 1023;
  const float sign = v.bits >> 15 != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexpf(static_cast<float>(mantissa), -24);
  return sign * ldexpf(static_cast<float>(mantissa + 1024), exponent - 25);
}

#endif  // FINDEP_CUDASHIM_CUDA_FP16_H
