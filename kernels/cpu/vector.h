// SPDX-License-Identifier: Apache-2.0
//
// Loops that the compiler turns into vector code, once for each instruction
// set of FINDEP_CLONES; the loader picks one when the program starts, so a
// single binary runs on every machine of the architecture.

#ifndef FINDEP_CPU_VECTOR_H
#define FINDEP_CPU_VECTOR_H

#include <cstdint>
#include <cstring>

// The sanitizers instrument the resolvers that pick a clone, which run before
// the sanitizers are set up.
#if defined(__x86_64__) && defined(__linux__) && !defined(FINDEP_NO_CLONES)
#define FINDEP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FINDEP_CLONES
#endif

#define FINDEP_INLINE inline __attribute__((always_inline))

namespace findep {

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

FINDEP_INLINE float bits_to_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof(f));
  return f;
}

FINDEP_INLINE uint32_t float_to_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof(bits));
  return bits;
}

FINDEP_INLINE float to_float(float v) { return v; }

FINDEP_INLINE float to_float(BF16 v) { return bits_to_float(static_cast<uint32_t>(v.bits) << 16); }

// Exponent and fraction move to their places in a float, whose exponent is
// then 112 too small; the multiplication repairs that for subnormals as well.
FINDEP_INLINE float to_float(F16 v) {
  const uint32_t magnitude = static_cast<uint32_t>(v.bits & 0x7fffu) << 13;
  const uint32_t special = (v.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  return bits_to_float(float_to_bits(bits_to_float(magnitude) * 0x1p112f) | special | sign);
}

// e^x with a relative error of about 2e-7: x = n ln 2 + r, e^r by the
// polynomial of the Cephes library. NaN gives NaN; beyond the range of normal
// floats 0 or infinity.
FINDEP_INLINE float vector_exp(float x) {
  const float bounded = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  // Adding and subtracting 1.5 * 2^23 rounds to an integer.
  const float n = (bounded * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  float r = bounded - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // n is in [-126, 127] unless x is NaN, whose conversion would be undefined.
  const int32_t exponent = n == n ? static_cast<int32_t>(n) : 0;
  const float result = p * bits_to_float(static_cast<uint32_t>(exponent + 127) << 23);
  return x < -87.0f ? 0.0f : (x > 88.72f ? bits_to_float(0x7f800000u) : result);
}

// Sum of x[i] * w[i].
float dot(const float* x, const float* w, int64_t n);
// out[i] += a * x[i].
void axpy(float* out, float a, const float* x, int64_t n);
// out[i] *= a.
void scale(float* out, float a, int64_t n);
// out[i] = a[i] + b[i].
void sum(float* out, const float* a, const float* b, int64_t n);
// out[i] = SiLU(gate[i]) * up[i].
void swiglu_row(float* out, const float* gate, const float* up, int64_t n);
// out[i] = x[i] * factor * gain[i].
void scale_by(float* out, const float* x, float factor, const float* gain, int64_t n);
// x[i] = e^(x[i] - highest); returns their sum.
float exp_row(float* x, float highest, int64_t n);
// The largest of x, not less than `least`, leaving NaN out.
float max_row(const float* x, float least, int64_t n);
// out[i] = x[i] as float.
void widen(float* out, const BF16* x, int64_t n);
void widen(float* out, const F16* x, int64_t n);
// out[k] (+)= sum of x[i] * w[k*stride + i], for k in [0, rows).
void dot_rows(float* out, const float* x, const float* w, int64_t stride, int64_t rows, int64_t n, bool accumulate);
void dot_rows(float* out, const float* x, const BF16* w, int64_t stride, int64_t rows, int64_t n, bool accumulate);
void dot_rows(float* out, const float* x, const F16* w, int64_t stride, int64_t rows, int64_t n, bool accumulate);

}  // namespace findep

#endif  // FINDEP_CPU_VECTOR_H
