// SPDX-License-Identifier: Apache-2.0

#include "cpu/vector.h"

namespace findep {

namespace {

template <typename T>
FINDEP_INLINE void dot_rows_body(float* out, const float* x, const T* w, int64_t stride, int64_t rows, int64_t n,
                                 bool accumulate) {
  int64_t k = 0;
  // Four rows at a time: four independent sums hide the latency of the
  // additions, and x is read once for four.
  for (; k + 4 <= rows; k += 4) {
    const T *w0 = w + k * stride, *w1 = w0 + stride, *w2 = w1 + stride, *w3 = w2 + stride;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t i = 0; i < n; ++i) {
      s0 += x[i] * to_float(w0[i]);
      s1 += x[i] * to_float(w1[i]);
      s2 += x[i] * to_float(w2[i]);
      s3 += x[i] * to_float(w3[i]);
    }
    const float s[4] = {s0, s1, s2, s3};
    for (int j = 0; j < 4; ++j) out[k + j] = accumulate ? out[k + j] + s[j] : s[j];
  }
  for (; k < rows; ++k) {
    const T* row = w + k * stride;
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; ++i) s += x[i] * to_float(row[i]);
    out[k] = accumulate ? out[k] + s : s;
  }
}

template <typename T>
FINDEP_INLINE void widen_body(float* out, const T* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

}  // namespace

FINDEP_CLONES float dot(const float* x, const float* w, int64_t n) {
  float s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; ++i) s += x[i] * w[i];
  return s;
}

FINDEP_CLONES void axpy(float* out, float a, const float* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] += a * x[i];
}

FINDEP_CLONES void scale(float* out, float a, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] *= a;
}

FINDEP_CLONES void sum(float* out, const float* a, const float* b, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

FINDEP_CLONES void swiglu_row(float* out, const float* gate, const float* up, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + vector_exp(-gate[i])) * up[i];
}

FINDEP_CLONES void scale_by(float* out, const float* x, float factor, const float* gain, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor * gain[i];
}

FINDEP_CLONES float exp_row(float* x, float highest, int64_t n) {
  float s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; ++i) {
    x[i] = vector_exp(x[i] - highest);
    s += x[i];
  }
  return s;
}

FINDEP_CLONES float max_row(const float* x, float least, int64_t n) {
  float m = least;
#pragma omp simd reduction(max : m)
  for (int64_t i = 0; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

FINDEP_CLONES void widen(float* out, const BF16* x, int64_t n) { widen_body(out, x, n); }

FINDEP_CLONES void widen(float* out, const F16* x, int64_t n) { widen_body(out, x, n); }

FINDEP_CLONES void dot_rows(float* out, const float* x, const float* w, int64_t stride, int64_t rows, int64_t n,
                            bool accumulate) {
  dot_rows_body(out, x, w, stride, rows, n, accumulate);
}

FINDEP_CLONES void dot_rows(float* out, const float* x, const BF16* w, int64_t stride, int64_t rows, int64_t n,
                            bool accumulate) {
  dot_rows_body(out, x, w, stride, rows, n, accumulate);
}

FINDEP_CLONES void dot_rows(float* out, const float* x, const F16* w, int64_t stride, int64_t rows, int64_t n,
                            bool accumulate) {
  dot_rows_body(out, x, w, stride, rows, n, accumulate);
}

}  // namespace findep
