// SPDX-License-Identifier: Apache-2.0

#include "cpu/gemm.h"

namespace findep {

findep_status matmul(findep_stream* stream, const findep_matmul_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_matmul_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("w", a.w);
    require_shape("out", out.rows, out.cols, x.rows, w.rows);
    if (x.rows == 0) return;
    require_shape("w", w.rows, w.cols, out.cols, x.cols);
    gemm(s, out, x, w, a.accumulate != 0);
  });
}

findep_status head_matmul(findep_stream* stream, const findep_head_matmul_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_head_matmul_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("w", a.w);
    require_size("heads", a.heads, 1);
    require_size("in_size", a.in_size, 1);
    require_size("out_size", a.out_size, 1);
    require_size("x_stride", a.x_stride, 1);
    require_size("out_stride", a.out_stride, a.out_size);
    require_size("w_stride", a.w_stride, 0);
    const bool transposed = a.transposed != 0;
    const int64_t w_rows = transposed ? a.out_size : a.in_size, w_cols = transposed ? a.in_size : a.out_size;
    require_at_least("w", w.rows, w.cols, (a.heads - 1) * a.w_stride + w_rows, w_cols);
    require_at_least("x", x.rows, x.cols, out.rows, (a.heads - 1) * a.x_stride + a.in_size);
    require_at_least("out", out.rows, out.cols, x.rows, (a.heads - 1) * a.out_stride + a.out_size);
    if (x.rows == 0) return;
    const double flops = 2.0 * static_cast<double>(x.rows * a.heads) * static_cast<double>(a.in_size * a.out_size);
    s.pool.run(a.heads, worth_sharing(flops), [&](int64_t h, int worker) {
      Weight wh = w.from(h * a.w_stride);
      wh.rows = w_rows;
      wh.cols = w_cols;
      const View<float> xh{x.data + h * a.x_stride, x.rows, a.in_size, x.stride};
      const View<float> oh{out.data + h * a.out_stride, out.rows, a.out_size, out.stride};
      if (transposed) {
        gemm_serial(s, worker, oh, xh, wh, false);
      } else {
        gemm_straight(s, worker, oh, xh, wh);
      }
    });
  });
}

}  // namespace findep
