// SPDX-License-Identifier: Apache-2.0

#include <cstring>

#include "cpu/internal.h"
#include "cpu/vector.h"

namespace findep {

namespace {

// Calls move(indexed row, other row, columns) for each pair of rows.
template <typename Move>
findep_status each_row(findep_stream* stream, const findep_rows_args* args, Move move) {
  return on_stream(stream, args, [&](findep_stream&, const findep_rows_args& a) {
    const View<float> indexed = f32("indexed", a.indexed), rows = f32("rows", a.rows);
    const View<int32_t> index = i32_vector("index", a.index, rows.rows);
    FINDEP_REQUIRE(index.rows == rows.rows, "index has %lld rows for %lld", static_cast<long long>(index.rows),
                   static_cast<long long>(rows.rows));
    if (rows.rows == 0) return;
    require_shape("indexed", indexed.rows, indexed.cols, indexed.rows, rows.cols);
    for (int64_t i = 0; i < rows.rows; ++i) require_index("index", i, index.column()[i], indexed.rows);
    for (int64_t i = 0; i < rows.rows; ++i) move(indexed.row(index.column()[i]), rows.row(i), rows.cols);
  });
}

size_t bytes(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }

}  // namespace

findep_status scatter_rows(findep_stream* stream, const findep_rows_args* args) {
  return each_row(stream, args, [](float* indexed, float* row, int64_t n) { memcpy(indexed, row, bytes(n)); });
}

findep_status gather_rows(findep_stream* stream, const findep_rows_args* args) {
  return each_row(stream, args, [](float* indexed, float* row, int64_t n) { memcpy(row, indexed, bytes(n)); });
}

findep_status combine_rows(findep_stream* stream, const findep_rows_args* args) {
  return each_row(stream, args, [](float* indexed, float* row, int64_t n) { sum(indexed, indexed, row, n); });
}

}  // namespace findep
