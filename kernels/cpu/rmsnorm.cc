// SPDX-License-Identifier: Apache-2.0

#include <cmath>

#include "cpu/gemm.h"
#include "cpu/vector.h"

namespace findep {

namespace {

// The gain as F32, in the stream's scratch unless it is F32 already.
const float* gain_of(findep_stream& stream, const Weight& w) {
  if (w.dtype == FINDEP_F32) return static_cast<const float*>(w.data);
  float* gain = scratch(stream, 0, w.cols);
  if (w.dtype == FINDEP_BF16) {
    widen(gain, static_cast<const BF16*>(w.data), w.cols);
  } else {
    widen(gain, static_cast<const F16*>(w.data), w.cols);
  }
  return gain;
}

}  // namespace

findep_status rmsnorm(findep_stream* stream, const findep_rmsnorm_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_rmsnorm_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("weight", a.weight);
    require_shape("out", out.rows, out.cols, x.rows, x.cols);
    if (x.rows == 0) return;
    require_shape("weight", w.rows, w.cols, 1, x.cols);
    const float* gain = gain_of(s, w);
    for (int64_t r = 0; r < x.rows; ++r) {
      const float mean = dot(x.row(r), x.row(r), x.cols) / static_cast<float>(x.cols);
      scale_by(out.row(r), x.row(r), 1.0f / std::sqrt(mean + a.eps), gain, x.cols);
    }
  });
}

}  // namespace findep
