// SPDX-License-Identifier: Apache-2.0

#include "cpu/gemm.h"

#include <cblas.h>

#include <algorithm>

#include "cpu/vector.h"

namespace findep {

namespace {

// Up to this many rows our own dot products are faster than the BLAS, which
// first rearranges all of w.
constexpr int64_t kDotRows = 4;

// Reading more weights than these takes longer than to wake helpers: 2 MiB of
// F32, about 0.1 ms.
constexpr double kSharedWeights = 1 << 19;

// Floats of one widened block: about half of a second-level cache.
constexpr int64_t kBlockFloats = int64_t{1} << 16;

blasint narrow(int64_t v) { return static_cast<blasint>(v); }

template <typename T>
void dot_product(View<float> out, View<float> x, const Weight& w, bool accumulate) {
  const T* data = static_cast<const T*>(w.data);
  // A block of w is used by all rows of x while it is in the cache.
  const int64_t block = std::max<int64_t>(4, kBlockFloats / w.cols / 4 * 4);
  for (int64_t o = 0; o < w.rows; o += block) {
    const int64_t rows = std::min(block, w.rows - o);
    for (int64_t i = 0; i < x.rows; ++i) {
      dot_rows(out.row(i) + o, x.row(i), data + o * w.stride, w.stride, rows, w.cols, accumulate);
    }
  }
}

template <typename T>
void widen_rows(float* out, const Weight& w, int64_t from, int64_t rows) {
  const T* data = static_cast<const T*>(w.data);
  for (int64_t r = 0; r < rows; ++r) widen(out + r * w.cols, data + (from + r) * w.stride, w.cols);
}

// Rows [from, from+rows) of w as F32: in place, or widened into `block`.
View<float> as_f32(const Weight& w, int64_t from, int64_t rows, float* block) {
  if (w.dtype == FINDEP_F32) return View<float>{static_cast<float*>(w.data) + from * w.stride, rows, w.cols, w.stride};
  if (w.dtype == FINDEP_BF16) {
    widen_rows<BF16>(block, w, from, rows);
  } else {
    widen_rows<F16>(block, w, from, rows);
  }
  return View<float>{block, rows, w.cols, w.cols};
}

void sgemm(CBLAS_TRANSPOSE transpose, View<float> out, View<float> x, View<float> w, float beta) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, transpose, narrow(x.rows), narrow(out.cols), narrow(x.cols), 1.0f, x.data,
              narrow(x.stride), w.data, narrow(w.stride), beta, out.data, narrow(out.stride));
}

}  // namespace

float* scratch(findep_stream& stream, int worker, int64_t size) {
  std::vector<float>& own = stream.scratch[static_cast<size_t>(worker)];
  if (static_cast<int64_t>(own.size()) < size) own.resize(static_cast<size_t>(size));
  return own.data();
}

void gemm_serial(findep_stream& stream, int worker, View<float> out, View<float> x, const Weight& w, bool accumulate) {
  if (x.rows == 0 || w.rows == 0) return;
  if (x.rows <= kDotRows) {
    switch (w.dtype) {
      case FINDEP_F32: return dot_product<float>(out, x, w, accumulate);
      case FINDEP_BF16: return dot_product<BF16>(out, x, w, accumulate);
      default: return dot_product<F16>(out, x, w, accumulate);
    }
  }
  const float beta = accumulate ? 1.0f : 0.0f;
  if (w.dtype == FINDEP_F32) return sgemm(CblasTrans, out, x, as_f32(w, 0, w.rows, nullptr), beta);
  const int64_t block = std::min(w.rows, std::max<int64_t>(16, kBlockFloats / w.cols));
  float* widened = scratch(stream, worker, block * w.cols);
  for (int64_t o = 0; o < w.rows; o += block) {
    const int64_t rows = std::min(block, w.rows - o);
    sgemm(CblasTrans, View<float>{out.data + o, x.rows, rows, out.stride}, x, as_f32(w, o, rows, widened), beta);
  }
}

void gemm(findep_stream& stream, View<float> out, View<float> x, const Weight& w, bool accumulate) {
  // A product with few rows takes as long as w takes to be read.
  const double weights = static_cast<double>(w.rows) * static_cast<double>(w.cols);
  const bool parallel = worth_sharing(2.0 * static_cast<double>(x.rows) * weights) || weights > kSharedWeights;
  const int64_t parts = parallel ? std::min<int64_t>(stream.pool.threads(), (w.rows + 15) / 16) : 1;
  const int64_t size = (w.rows + parts - 1) / parts;
  stream.pool.run(parts, parallel, [&](int64_t part, int worker) {
    const int64_t from = part * size;
    if (from >= w.rows) return;
    Weight piece = w.from(from);
    piece.rows = std::min(size, piece.rows);
    gemm_serial(stream, worker, View<float>{out.data + from, out.rows, piece.rows, out.stride}, x, piece, accumulate);
  });
}

void gemm_straight(findep_stream& stream, int worker, View<float> out, View<float> x, const Weight& w) {
  if (x.rows == 0) return;
  // Few rows of w fit a block of scratch; the sum goes on over the blocks.
  const int64_t block = w.dtype == FINDEP_F32 ? w.rows : std::min(w.rows, std::max<int64_t>(16, kBlockFloats / w.cols));
  float* widened = w.dtype == FINDEP_F32 ? nullptr : scratch(stream, worker, block * w.cols);
  for (int64_t from = 0; from < w.rows; from += block) {
    const int64_t rows = std::min(block, w.rows - from);
    const View<float> piece = as_f32(w, from, rows, widened);
    if (x.rows > kDotRows) {
      sgemm(CblasNoTrans, out, View<float>{x.data + from, x.rows, rows, x.stride}, piece, from == 0 ? 0.0f : 1.0f);
      continue;
    }
    for (int64_t r = 0; r < x.rows; ++r) {
      if (from == 0) std::fill_n(out.row(r), out.cols, 0.0f);
      for (int64_t i = 0; i < rows; ++i) axpy(out.row(r), x.row(r)[from + i], piece.row(i), out.cols);
    }
  }
}

void sgemm_nt(View<float> out, View<float> x, View<float> w) { sgemm(CblasTrans, out, x, w, 0.0f); }

void sgemm_nn_add(View<float> out, View<float> x, View<float> w) { sgemm(CblasNoTrans, out, x, w, 1.0f); }

}  // namespace findep
