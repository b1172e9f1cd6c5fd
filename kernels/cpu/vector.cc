// SPDX-License-Identifier: Apache-2.0

#include "cpu/vector.h"

namespace findep {

namespace {

// Eight elements in the compiler's vector types, which exist for every
// instruction set; where registers are narrower it takes several.
typedef float Floats __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));
constexpr int64_t kLanes = 8;

FINDEP_INLINE void load(Floats& out, const float* p) { memcpy(&out, p, sizeof(out)); }

FINDEP_INLINE void load_words(Words& out, const void* p) {
  Halves halves;
  memcpy(&halves, p, sizeof(halves));
  out = __builtin_convertvector(halves, Words);
}

FINDEP_INLINE void load(Floats& out, const BF16* p) {
  Words bits;
  load_words(bits, p);
  bits <<= 16;
  memcpy(&out, &bits, sizeof(out));
}

// As to_float(F16).
FINDEP_INLINE void load(Floats& out, const F16* p) {
  Words half;
  load_words(half, p);
  const Words magnitude = (half & 0x7fffu) << 13;
  Floats scaled;
  memcpy(&scaled, &magnitude, sizeof(scaled));
  scaled *= 0x1p112f;
  Words bits;
  memcpy(&bits, &scaled, sizeof(bits));
  bits |= ((half & 0x7c00u) == 0x7c00u) & 0x7f800000u;
  bits |= (half & 0x8000u) << 16;
  memcpy(&out, &bits, sizeof(out));
}

// A product with few rows takes as long as w takes to come from memory. The
// processor's own prefetcher begins anew at each page, so it is told where
// the reading will be.
constexpr int64_t kAheadBytes = 2048;

template <typename T>
FINDEP_INLINE float dot_row(const float* x, const T* w, int64_t n) {
  // Independent sums hide the latency of the additions.
  constexpr int64_t sums = 4, step = sums * kLanes;
  constexpr size_t line = 64;
  Floats s[sums] = {};
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    // An integer, since the last prefetches lie behind the matrix.
    const uintptr_t ahead = reinterpret_cast<uintptr_t>(w + i) + kAheadBytes;
    for (size_t b = 0; b < step * sizeof(T); b += line) __builtin_prefetch(reinterpret_cast<const void*>(ahead + b));
    for (int64_t k = 0; k < sums; ++k) {
      Floats xs, ws;
      load(xs, x + i + k * kLanes);
      load(ws, w + i + k * kLanes);
      s[k] += xs * ws;
    }
  }
  const Floats all = (s[0] + s[1]) + (s[2] + s[3]);
  float total = 0;
  for (int64_t k = 0; k < kLanes; ++k) total += all[k];
  for (; i < n; ++i) total += x[i] * to_float(w[i]);
  return total;
}

// Row after row, so that w is read in the order in which it lies in memory.
template <typename T>
FINDEP_INLINE void dot_rows_body(float* out, const float* x, const T* w, int64_t stride, int64_t rows, int64_t n,
                                 bool accumulate) {
  for (int64_t k = 0; k < rows; ++k) {
    const float s = dot_row(x, w + k * stride, n);
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
