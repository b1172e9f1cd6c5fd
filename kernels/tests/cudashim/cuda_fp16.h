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

// To nearest, ties to even, infinity beyond 65504.
inline __half __float2half_rn(float v) {
  const uint16_t sign = signbit(v) ? 0x8000 : 0;
  const float size = fabsf(v);
  if (size != size) return __half{0x7fff};
  if (size >= 65520.0f) return __half{static_cast<uint16_t>(sign | 0x7c00)};
  if (size == 0) return __half{sign};
  int exponent;
  frexpf(size, &exponent);  // size = fraction in [0.5, 1) * 2^exponent
  const int step = exponent < -13 ? -24 : exponent - 11;
  const uint16_t units = static_cast<uint16_t>(nearbyintf(ldexpf(size, -step)));
  // A carry out of the mantissa lands in the exponent, as it should.
  const uint16_t bits = exponent < -13 ? units : static_cast<uint16_t>(((exponent + 14) << 10) + units - 1024);
  return __half{static_cast<uint16_t>(sign | bits)};
}

#endif  // FINDEP_CUDASHIM_CUDA_FP16_H
