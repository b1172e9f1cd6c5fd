// SPDX-License-Identifier: Apache-2.0
//
// scatter_rows, gather_rows and combine_rows: rows [n,M] to or from the rows
// index[i] of indexed [*,M]. One block per row. The indices of a scatter and of
// a combine are distinct, so that no two blocks write the same place and the
// combine needs no atomic additions. Rows whose addresses allow it travel in
// pieces of 16 bytes. A scatter into BF16, which a cache of half the size has,
// rounds eight elements at a time.

#include "cuda/narrow.cuh"

namespace findep {

namespace {

constexpr int kThreads = 128;

enum class Move { kScatter, kGather, kCombine };

struct RowsParams {
  View<float> indexed, rows;
  Column<const int32_t> index;
};

__device__ inline float plus(float a, float b) { return a + b; }
__device__ inline float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

template <Move kMove, typename Unit>
__global__ void __launch_bounds__(kThreads) rows_kernel(RowsParams p) {
  const int64_t units = p.rows.cols * static_cast<int64_t>(sizeof(float)) / static_cast<int64_t>(sizeof(Unit));
  for (int64_t i = blockIdx.x; i < p.rows.rows; i += gridDim.x) {
    const int64_t at = p.index[i];
    if (at < 0 || at >= p.indexed.rows) continue;
    Unit* indexed = reinterpret_cast<Unit*>(p.indexed.row(at));
    Unit* row = reinterpret_cast<Unit*>(p.rows.row(i));
    for (int64_t c = threadIdx.x; c < units; c += kThreads) {
      if (kMove == Move::kScatter) indexed[c] = row[c];
      if (kMove == Move::kGather) row[c] = indexed[c];
      if (kMove == Move::kCombine) indexed[c] = plus(indexed[c], row[c]);
    }
  }
}

bool in_sixteens(const View<float>& v) {
  return reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && v.stride % 4 == 0 && v.cols % 4 == 0;
}

struct NarrowScatterParams {
  View<__nv_bfloat16> indexed;
  View<float> rows;
  Column<const int32_t> index;
  bool wide_rows, wide_indexed;  // see load_eight
};

__global__ void __launch_bounds__(kThreads) narrow_scatter_kernel(NarrowScatterParams p) {
  for (int64_t i = blockIdx.x; i < p.rows.rows; i += gridDim.x) {
    const int64_t at = p.index[i];
    if (at < 0 || at >= p.indexed.rows) continue;
    for (int64_t c = static_cast<int64_t>(threadIdx.x) * kEight; c < p.rows.cols; c += kThreads * kEight) {
      const Eight<float> values = load_eight(p.rows.row(i), c, p.rows.cols, p.wide_rows);
      Eight<__nv_bfloat16> narrowed;
      for (int e = 0; e < kEight; ++e) narrow(values.v[e], &narrowed.v[e]);
      __nv_bfloat16* const to = p.indexed.row(at) + c;
      if (p.wide_indexed && c + kEight <= p.rows.cols) {
        *reinterpret_cast<Eight<__nv_bfloat16>*>(to) = narrowed;
      } else {
        for (int e = 0; e < kEight && c + e < p.rows.cols; ++e) to[e] = narrowed.v[e];
      }
    }
  }
}

// The rows and the index of a move, checked against each other.
View<int32_t> index_of(const findep_rows_args& a, const View<float>& rows) {
  const View<int32_t> index = i32_vector("index", a.index, rows.rows);
  FINDEP_REQUIRE(index.rows == rows.rows, "index has %lld rows for %lld", static_cast<long long>(index.rows),
                 static_cast<long long>(rows.rows));
  return index;
}

void narrow_scatter(findep_stream& s, const findep_rows_args& a) {
  const View<__nv_bfloat16> indexed = bf16("indexed", a.indexed);
  const View<float> rows = f32("rows", a.rows);
  const View<int32_t> index = index_of(a, rows);
  if (rows.rows == 0) return;
  require_shape("indexed", indexed.rows, indexed.cols, indexed.rows, rows.cols);
  launch(s, narrow_scatter_kernel, dim3(blocks_for(rows.rows, 1)), dim3(kThreads),
         NarrowScatterParams{indexed, rows, index.const_column(), is_wide(rows.data, rows.stride, sizeof(float)),
                             is_wide(indexed.data, indexed.stride, sizeof(__nv_bfloat16))});
}

template <Move kMove>
findep_status each_row(findep_stream* stream, const findep_rows_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_rows_args& a) {
    if (kMove == Move::kScatter && a.indexed.dtype == FINDEP_BF16) return narrow_scatter(s, a);
    const View<float> indexed = f32("indexed", a.indexed), rows = f32("rows", a.rows);
    const View<int32_t> index = index_of(a, rows);
    if (rows.rows == 0) return;
    require_shape("indexed", indexed.rows, indexed.cols, indexed.rows, rows.cols);
    const RowsParams params{indexed, rows, index.const_column()};
    const bool wide = in_sixteens(indexed) && in_sixteens(rows);
    launch(s, wide ? rows_kernel<kMove, float4> : rows_kernel<kMove, float>, dim3(blocks_for(rows.rows, 1)),
           dim3(kThreads), params);
  });
}

}  // namespace

findep_status scatter_rows(findep_stream* stream, const findep_rows_args* args) {
  return each_row<Move::kScatter>(stream, args);
}

findep_status gather_rows(findep_stream* stream, const findep_rows_args* args) {
  return each_row<Move::kGather>(stream, args);
}

findep_status combine_rows(findep_stream* stream, const findep_rows_args* args) {
  return each_row<Move::kCombine>(stream, args);
}

}  // namespace findep
