// SPDX-License-Identifier: Apache-2.0
//
// group_experts: sorts the pairs of `rows` rows by expert, then row. One block
// per expert, in three kernels without scratch memory:
//   1. count:  group_start[e+1] = the pairs of expert e
//   2. offset: group_start becomes its own running sum
//   3. place:  for pairs in chunks of the block's size, each thread finds the
//              number of its expert's pairs before its own by a scan over the
//              block; pairs come by row, so rows ascend within an expert
// Reading all pairs once per expert costs less than a sort for the some ten
// experts of a rank.

#include "common/grouping.h"

#include "cuda/device.cuh"

namespace findep {

namespace {

constexpr int kThreads = 256;

struct GroupParams {
  Column<const int32_t> pair_start, pair_expert;
  Column<const float> pair_weight;
  Column<int32_t> group_start, group_row;
  Column<float> group_weight;
  int64_t rows, num_experts;
  int64_t places;  // of every column of pairs
};

__device__ inline int64_t group_pairs(const GroupParams& p) {
  const int64_t pairs = p.pair_start[p.rows];
  return pairs < 0 ? 0 : pairs < p.places ? pairs : p.places;
}

__global__ void __launch_bounds__(kThreads) group_count_kernel(GroupParams p) {
  __shared__ int scratch[kThreads / kWarp];
  const int64_t e = blockIdx.x, pairs = group_pairs(p);
  int count = 0;
  for (int64_t i = threadIdx.x; i < pairs; i += kThreads) count += p.pair_expert[i] == e ? 1 : 0;
  count = block_sum(count, scratch);
  if (threadIdx.x == 0) p.group_start[e + 1] = count;
}

__global__ void group_offset_kernel(GroupParams p) {
  p.group_start[0] = 0;
  for (int64_t e = 0; e < p.num_experts; ++e) p.group_start[e + 1] += p.group_start[e];
}

__global__ void __launch_bounds__(kThreads) group_place_kernel(GroupParams p) {
  __shared__ int scratch[kThreads / kWarp];
  const int64_t e = blockIdx.x, pairs = group_pairs(p);
  int64_t base = p.group_start[e];
  for (int64_t first = 0; first < pairs; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const bool mine = i < pairs && p.pair_expert[i] == e;
    const Scan before = block_scan(mine ? 1 : 0, scratch);
    if (mine) {
      p.group_row[base + before.before] = static_cast<int32_t>(grouping_row_of(p.pair_start, p.rows, i));
      p.group_weight[base + before.before] = p.pair_weight[i];
    }
    base += before.total;
  }
}

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace

findep_status group_experts(findep_stream* stream, const findep_group_experts_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_group_experts_args& a) {
    require_size("rows", a.rows, 0);
    require_size("num_experts", a.num_experts, 1);
    const View<int32_t> pair_start = i32_vector("pair_start", a.pair_start, a.rows + 1);
    const View<int32_t> pair_expert = i32("pair_expert", a.pair_expert), group_row = i32("group_row", a.group_row);
    const View<float> pair_weight = f32("pair_weight", a.pair_weight), group_weight = f32("group_weight", a.group_weight);
    const View<int32_t> group_start = i32_vector("group_start", a.group_start, a.num_experts + 1);
    const int64_t places =
        least(least(pair_expert.rows, pair_weight.rows), least(group_row.rows, group_weight.rows));
    const GroupParams params{pair_start.const_column(), pair_expert.const_column(), pair_weight.const_column(),
                             group_start.column(),      group_row.column(),         group_weight.column(),
                             a.rows,                    a.num_experts,              places};
    const dim3 grid(static_cast<unsigned>(a.num_experts));
    launch(s, group_count_kernel, grid, dim3(kThreads), params);
    launch(s, group_offset_kernel, dim3(1), dim3(1), params);
    launch(s, group_place_kernel, grid, dim3(kThreads), params);
  });
}

}  // namespace findep
