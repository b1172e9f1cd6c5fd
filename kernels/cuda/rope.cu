// SPDX-License-Identifier: Apache-2.0
//
// rope: turns, in place, the pairs of each head by the angles of the row's
// position. One block per row; a thread takes pairs of all heads in turn, and
// no two threads touch the same pair.

#include "common/rope.h"

#include "cuda/device.cuh"

namespace findep {

namespace {

constexpr int kThreads = 128;

struct RopeParams {
  View<float> x, table;
  Column<const int32_t> positions;
  int64_t heads, head_stride, offset, dim;
  bool interleaved;
};

__global__ void __launch_bounds__(kThreads) rope_kernel(RopeParams p) {
  const int64_t pairs = p.dim / 2;
  for (int64_t r = blockIdx.x; r < p.x.rows; r += gridDim.x) {
    const int64_t position = p.positions[r];
    if (position < 0 || position >= p.table.rows) continue;
    for (int64_t i = threadIdx.x; i < p.heads * pairs; i += kThreads) {
      float* head = p.x.row(r) + i / pairs * p.head_stride + p.offset;
      rope_rotate(head, p.table.row(position), p.dim, i % pairs, p.interleaved);
    }
  }
}

}  // namespace

findep_status rope(findep_stream* stream, const findep_rope_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_rope_args& a) {
    const View<float> x = f32("x", a.x), table = f32("table", a.table);
    const View<int32_t> positions = i32_vector("positions", a.positions, x.rows);
    require_size("heads", a.heads, 1);
    require_size("dim", a.dim, 2);
    require_size("offset", a.offset, 0);
    require_size("head_stride", a.head_stride, a.heads == 1 ? 0 : a.dim);
    FINDEP_REQUIRE(a.dim % 2 == 0, "dim %lld must be even", static_cast<long long>(a.dim));
    require_at_least("x", x.rows, x.cols, 0, (a.heads - 1) * a.head_stride + a.offset + a.dim);
    if (x.rows == 0) return;
    require_shape("table", table.rows, table.cols, table.rows, a.dim);
    launch(s, rope_kernel, dim3(blocks_for(x.rows, 1)), dim3(kThreads),
           RopeParams{x, table, positions.const_column(), a.heads, a.head_stride, a.offset, a.dim, a.interleaved != 0});
  });
}

}  // namespace findep
