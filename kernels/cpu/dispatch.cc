// SPDX-License-Identifier: Apache-2.0

#include "common/dispatch.h"

#include "common/grouping.h"
#include "cpu/internal.h"

namespace findep {

findep_status dispatch(findep_stream* stream, const findep_dispatch_args* args) {
  return on_stream(stream, args, [](findep_stream&, const findep_dispatch_args& a) {
    const View<int32_t> experts = i32("experts", a.experts), first = i32_vector("expert_start", a.expert_start, 2);
    const View<float> weights = f32("weights", a.weights);
    const int64_t n = experts.rows, k = experts.cols, ranks = first.rows - 1;
    require_shape("weights", weights.rows, weights.cols, n, k);
    const int64_t max_rows = dispatch_max_rows(n, k, ranks);
    const Column<int32_t> row_start = i32_vector("row_start", a.row_start, ranks + 1).column();
    const Column<int32_t> row_token = i32_vector("row_token", a.row_token, max_rows).column();
    const Column<int32_t> pair_start = i32_vector("pair_start", a.pair_start, max_rows + 1).column();
    const Column<int32_t> pair_expert = i32_vector("pair_expert", a.pair_expert, n * k).column();
    const Column<float> pair_weight = f32_vector("pair_weight", a.pair_weight, n * k).column();
    const int64_t total = require_starts("expert_start", first, ranks, kMaxSize);
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t i = 0; i < k; ++i) require_index("experts", t * k + i, experts.row(t)[i], total);
    }
    DispatchOffset at{0, 0};
    row_start[0] = 0;
    pair_start[0] = 0;
    for (int64_t e = 0; e < ranks; ++e) {
      const int64_t from = first.column()[e], to = first.column()[e + 1];
      for (int64_t t = 0; t < n; ++t) {
        const int64_t count = dispatch_count(experts.row(t), k, from, to);
        if (count == 0) continue;
        dispatch_pack(experts.row(t), weights.row(t), k, from, to, t, at, count, row_token, pair_start, pair_expert,
                      pair_weight);
        at = dispatch_advance(at, count);
      }
      row_start[e + 1] = static_cast<int32_t>(at.row);
    }
  });
}

findep_status group_experts(findep_stream* stream, const findep_group_experts_args* args) {
  return on_stream(stream, args, [](findep_stream&, const findep_group_experts_args& a) {
    require_size("rows", a.rows, 0);
    require_size("num_experts", a.num_experts, 1);
    const View<int32_t> pair_start = i32_vector("pair_start", a.pair_start, a.rows + 1);
    const View<int32_t> pair_expert = i32("pair_expert", a.pair_expert);
    const View<float> pair_weight = f32("pair_weight", a.pair_weight);
    const int64_t given = pair_expert.rows < pair_weight.rows ? pair_expert.rows : pair_weight.rows;
    const int64_t pairs = require_starts("pair_start", pair_start, a.rows, given);
    const View<int32_t> group_start = i32_vector("group_start", a.group_start, a.num_experts + 1);
    const View<int32_t> group_row = i32_vector("group_row", a.group_row, pairs);
    const View<float> group_weight = f32_vector("group_weight", a.group_weight, pairs);
    for (int64_t p = 0; p < pairs; ++p) require_index("pair_expert", p, pair_expert.column()[p], a.num_experts);
    grouping_sort(pair_start.const_column(), pair_expert.const_column(), pair_weight.const_column(), a.rows,
                  a.num_experts, group_start.column(), group_row.column(), group_weight.column());
  });
}

}  // namespace findep
