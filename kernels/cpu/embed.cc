// SPDX-License-Identifier: Apache-2.0

#include <cstring>

#include "cpu/internal.h"
#include "cpu/vector.h"

namespace findep {

namespace {

template <typename T>
void copy_row(float* out, const Weight& table, int64_t id) {
  const T* row = static_cast<const T*>(table.data) + id * table.stride;
  if constexpr (sizeof(T) == sizeof(float)) {
    memcpy(out, row, static_cast<size_t>(table.cols) * sizeof(float));
  } else {
    widen(out, row, table.cols);
  }
}

}  // namespace

findep_status embed(findep_stream* stream, const findep_embed_args* args) {
  return on_stream(stream, args, [](findep_stream&, const findep_embed_args& a) {
    const View<float> out = f32("out", a.out);
    const Weight table = weight("table", a.table);
    const View<int32_t> ids = i32_vector("ids", a.ids, out.rows);
    require_shape("out", out.rows, out.cols, ids.rows, table.cols);
    for (int64_t i = 0; i < out.rows; ++i) require_index("ids", i, ids.column()[i], table.rows);
    for (int64_t i = 0; i < out.rows; ++i) {
      const int64_t id = ids.column()[i];
      switch (table.dtype) {
        case FINDEP_F32: copy_row<float>(out.row(i), table, id); break;
        case FINDEP_BF16: copy_row<BF16>(out.row(i), table, id); break;
        default: copy_row<F16>(out.row(i), table, id); break;
      }
    }
  });
}

}  // namespace findep
