// SPDX-License-Identifier: Apache-2.0
//
// dispatch: packs n tokens, each once per expert rank that has one of its k
// experts. One block per rank, in three kernels without scratch memory:
//   1. count:   row_start[e+1] = the tokens with an expert on rank e
//   2. offset:  row_start becomes its own running sum
//   3. pack:    the rank's first pair is the number of pairs of earlier ranks;
//               then, for tokens in chunks of the block's size, each thread
//               finds its row and pair by a scan over the block, and packs
// Tokens ascend within a rank whatever the order in which blocks run.

#include "common/dispatch.h"

#include "cuda/device.cuh"

namespace findep {

namespace {

constexpr int kThreads = 256;

struct DispatchParams {
  View<int32_t> experts;  // [n,k]
  View<float> weights;    // [n,k]
  Column<const int32_t> expert_start;
  int64_t ranks;
  Column<int32_t> row_start, row_token, pair_start, pair_expert;
  Column<float> pair_weight;
  int64_t max_rows;  // places of row_token; a wrong expert_start could need more
};

__global__ void __launch_bounds__(kThreads) dispatch_count_kernel(DispatchParams p) {
  __shared__ int scratch[kThreads / kWarp];
  const int64_t e = blockIdx.x, from = p.expert_start[e], to = p.expert_start[e + 1];
  int rows = 0;
  for (int64_t t = threadIdx.x; t < p.experts.rows; t += kThreads) {
    rows += dispatch_count(p.experts.row(t), p.experts.cols, from, to) > 0 ? 1 : 0;
  }
  rows = block_sum(rows, scratch);
  if (threadIdx.x == 0) p.row_start[e + 1] = rows;
}

__global__ void dispatch_offset_kernel(DispatchParams p) {
  p.row_start[0] = 0;
  p.pair_start[0] = 0;
  for (int64_t e = 0; e < p.ranks; ++e) p.row_start[e + 1] += p.row_start[e];
}

// The pairs of the ranks before the one whose first expert is `from`. Starts
// ascend, so these are the pairs with smaller experts; negative experts are no
// rank's.
__device__ int dispatch_pairs_before(const DispatchParams& p, int64_t from, int* scratch) {
  int pairs = 0;
  for (int64_t t = threadIdx.x; t < p.experts.rows; t += kThreads) {
    pairs += static_cast<int>(dispatch_count(p.experts.row(t), p.experts.cols, p.expert_start[0], from));
  }
  return block_sum(pairs, scratch);
}

__global__ void __launch_bounds__(kThreads) dispatch_pack_kernel(DispatchParams p) {
  __shared__ int scratch[kThreads / kWarp];
  const int64_t e = blockIdx.x, from = p.expert_start[e], to = p.expert_start[e + 1], k = p.experts.cols;
  DispatchOffset base{p.row_start[e], dispatch_pairs_before(p, from, scratch)};
  for (int64_t first = 0; first < p.experts.rows; first += kThreads) {
    const int64_t t = first + threadIdx.x;
    const int64_t count = t < p.experts.rows ? dispatch_count(p.experts.row(t), k, from, to) : 0;
    const Scan rows = block_scan(count > 0 ? 1 : 0, scratch);
    const Scan pairs = block_scan(static_cast<int>(count), scratch);
    const DispatchOffset at{base.row + rows.before, base.pair + pairs.before};
    if (count > 0 && at.row < p.max_rows && at.pair + count <= p.experts.rows * k) {
      dispatch_pack(p.experts.row(t), p.weights.row(t), k, from, to, t, at, count, p.row_token, p.pair_start,
                    p.pair_expert, p.pair_weight);
    }
    base = DispatchOffset{base.row + rows.total, base.pair + pairs.total};
  }
}

}  // namespace

findep_status dispatch(findep_stream* stream, const findep_dispatch_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_dispatch_args& a) {
    const View<int32_t> experts = i32("experts", a.experts), first = i32_vector("expert_start", a.expert_start, 2);
    const View<float> weights = f32("weights", a.weights);
    const int64_t n = experts.rows, k = experts.cols, ranks = first.rows - 1;
    require_shape("weights", weights.rows, weights.cols, n, k);
    FINDEP_REQUIRE(n * k <= kMaxSize, "%lld tokens with %lld experts each exceed 2^30 pairs",
                   static_cast<long long>(n), static_cast<long long>(k));
    const int64_t max_rows = dispatch_max_rows(n, k, ranks);
    const DispatchParams params{experts,
                                weights,
                                first.const_column(),
                                ranks,
                                i32_vector("row_start", a.row_start, ranks + 1).column(),
                                i32_vector("row_token", a.row_token, max_rows).column(),
                                i32_vector("pair_start", a.pair_start, max_rows + 1).column(),
                                i32_vector("pair_expert", a.pair_expert, n * k).column(),
                                f32_vector("pair_weight", a.pair_weight, n * k).column(),
                                max_rows};
    launch(s, dispatch_count_kernel, dim3(static_cast<unsigned>(ranks)), dim3(kThreads), params);
    launch(s, dispatch_offset_kernel, dim3(1), dim3(1), params);
    launch(s, dispatch_pack_kernel, dim3(static_cast<unsigned>(ranks)), dim3(kThreads), params);
  });
}

}  // namespace findep
