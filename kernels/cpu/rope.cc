// SPDX-License-Identifier: Apache-2.0

#include "common/rope.h"

#include "cpu/internal.h"

namespace findep {

findep_status rope(findep_stream* stream, const findep_rope_args* args) {
  return on_stream(stream, args, [](findep_stream&, const findep_rope_args& a) {
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
    for (int64_t r = 0; r < x.rows; ++r) require_index("positions", r, positions.column()[r], table.rows);
    for (int64_t r = 0; r < x.rows; ++r) {
      const float* angles = table.row(positions.column()[r]);
      for (int64_t h = 0; h < a.heads; ++h) {
        float* head = x.row(r) + h * a.head_stride + a.offset;
        for (int64_t i = 0; i < a.dim / 2; ++i) rope_rotate(head, angles, a.dim, i, a.interleaved != 0);
      }
    }
  });
}

}  // namespace findep
