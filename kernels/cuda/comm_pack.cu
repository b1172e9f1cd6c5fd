// SPDX-License-Identifier: Apache-2.0
//
// pack and unpack, see PackArgs and UnpackArgs in common/tasklist.h.
//
// pack: one block per (rank, place); the threads copy the row that belongs there
// and every place's share of the pairs. unpack: one block per row; each finds
// its rank, the pairs of the ranks before, and copies its own.

#include "common/exchange.h"
#include "common/tasklist.h"

#include "cuda/device.cuh"
#include "cuda/pipeline_ops.h"

namespace findep {

namespace {

constexpr int kThreads = 128;

struct PackParams {
  View<float> x, rows;
  Column<const int32_t> row_start, row_token, pair_start, pair_expert, pair_weight;
  View<int32_t> headers, pairs;
  Column<int32_t> index;
  int64_t capacity, pair_capacity, ranks, all_rows;
  MessagePlace at;
};

__global__ void __launch_bounds__(kThreads) pack_kernel(PackParams p) {
  const int64_t blocks = p.ranks * p.capacity;
  for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    const int64_t e = b / p.capacity, i = b % p.capacity;
    const PackSpan s = pack_span(p.row_start, p.pair_start, e, p.capacity, p.pair_capacity, p.all_rows);
    const int64_t token = i < s.rows ? p.row_token[s.row + i] : -1;
    const bool real = token >= 0 && token < p.x.rows;
    if (threadIdx.x == 0) p.index[b] = static_cast<int32_t>(real ? token : -1);
    for (int64_t c = threadIdx.x; real && c < p.x.cols; c += kThreads) p.rows.row(b)[c] = p.x.row(token)[c];
    const int64_t words = pair_words(p.capacity, p.pair_capacity);
    for (int64_t w = i * kThreads + threadIdx.x; w < words; w += p.capacity * kThreads) {
      p.pairs.row(e)[w] = pack_word(s, w, p.capacity, p.pair_capacity, p.pair_start, p.pair_expert, p.pair_weight);
    }
    if (i != 0) continue;
    if (threadIdx.x < kHeaderWords) p.headers.row(e)[threadIdx.x] = header_word(threadIdx.x, s.rows, s.pairs, p.at);
  }
}

struct UnpackParams {
  View<int32_t> headers;
  Column<const int32_t> pairs, first;
  Column<int32_t> pair_start, pair_expert, pair_weight, status;
  int64_t ranks, top_k, rows, places;
  MessagePlace at;
};

__device__ inline MessageCounts counts_of(const UnpackParams& p, int64_t a) {
  const int64_t capacity = p.first[a + 1] - p.first[a];
  return message_counts(p.headers.row(a), p.at, capacity, capacity * p.top_k);
}

// The last block is for the end of the last row.
__global__ void __launch_bounds__(kThreads) unpack_kernel(UnpackParams p) {
  for (int64_t r = blockIdx.x; r <= p.rows; r += gridDim.x) {
    const int64_t a = r < p.rows ? rank_of_row(p.first, p.ranks, r) : p.ranks;
    int64_t base = 0;
#pragma unroll 1  // or sm_90a spills
    for (int64_t before = 0; before < a; ++before) base += counts_of(p, before).pairs;
    if (a == p.ranks) {
      if (threadIdx.x == 0) p.pair_start[r] = static_cast<int32_t>(base);
      continue;
    }
    const MessageCounts counts = counts_of(p, a);
    if (counts.wrong && threadIdx.x == 0) p.status[0] = static_cast<int32_t>(1 + a);
    const int64_t words = pairs_offset(p.first, a, p.top_k), capacity = p.first[a + 1] - p.first[a];
    const int64_t i = r - p.first[a];
    const int64_t from = i < counts.rows ? clamp(p.pairs[words + i], counts.pairs) : counts.pairs;
    const int64_t to = i + 1 < counts.rows ? clamp(p.pairs[words + i + 1], counts.pairs) : counts.pairs;
    if (threadIdx.x == 0) p.pair_start[r] = static_cast<int32_t>(base + from);
    const int64_t experts = words + capacity + 1, weights = experts + capacity * p.top_k;
    for (int64_t k = from + threadIdx.x; k < to; k += kThreads) {
      if (base + k >= p.places) continue;
      p.pair_expert[base + k] = p.pairs[experts + k];
      p.pair_weight[base + k] = p.pairs[weights + k];
    }
  }
}

// A column of F32 as the bits it is made of.
Column<const int32_t> bits(const View<float>& v) {
  return Column<const int32_t>{reinterpret_cast<const int32_t*>(v.data), v.stride};
}

}  // namespace

findep_status pack(findep_stream* stream, const PackArgs* args) {
  return on_stream(stream, args, [](findep_stream& s, const PackArgs& a) {
    require_size("ranks", a.ranks, 1);
    require_size("capacity", a.capacity, 0);
    require_size("pair_capacity", a.pair_capacity, a.capacity);
    if (a.capacity == 0) return;
    const View<float> x = f32("x", a.x), rows = f32("rows", a.rows);
    const View<int32_t> headers = i32("headers", a.headers), pairs = i32("pairs", a.pairs);
    require_shape("rows", rows.rows, rows.cols, a.ranks * a.capacity, x.cols);
    require_shape("headers", headers.rows, headers.cols, a.ranks, kHeaderWords);
    require_shape("pairs", pairs.rows, pairs.cols, a.ranks, pair_words(a.capacity, a.pair_capacity));
    const View<int32_t> token = i32("row_token", a.row_token);
    const PackParams params{x, rows, i32_vector("row_start", a.row_start, a.ranks + 1).const_column(), token.const_column(),
                            i32_vector("pair_start", a.pair_start, token.rows + 1).const_column(),
                            i32("pair_expert", a.pair_expert).const_column(), bits(f32("pair_weight", a.pair_weight)), headers, pairs,
                            i32_vector("index", a.index, a.ranks * a.capacity).column(), a.capacity, a.pair_capacity, a.ranks, token.rows,
                            MessagePlace{static_cast<int32_t>(a.layer), static_cast<int32_t>(a.micro_batch), static_cast<int32_t>(a.segment)}};
    launch(s, pack_kernel, dim3(blocks_for(a.ranks * a.capacity, 1)), dim3(kThreads), params);
  });
}

findep_status unpack(findep_stream* stream, const UnpackArgs* args) {
  return on_stream(stream, args, [](findep_stream& s, const UnpackArgs& a) {
    require_size("ranks", a.ranks, 1);
    require_size("top_k", a.top_k, 1);
    const View<int32_t> headers = i32("headers", a.headers);
    require_shape("headers", headers.rows, headers.cols, a.ranks, kHeaderWords);
    const View<int32_t> start = i32_vector("pair_start", a.pair_start, 1), expert = i32("pair_expert", a.pair_expert);
    const View<float> gain = f32("pair_weight", a.pair_weight);
    require_shape("pair_weight", gain.rows, gain.cols, expert.rows, 1);
    const UnpackParams params{headers, i32("pairs", a.pairs).const_column(), i32_vector("first", a.first, a.ranks + 1).const_column(),
                              start.column(), expert.column(), Column<int32_t>{reinterpret_cast<int32_t*>(gain.data), gain.stride},
                              i32_vector("status", a.status, 1).column(), a.ranks, a.top_k, start.rows - 1, expert.rows,
                              MessagePlace{static_cast<int32_t>(a.layer), static_cast<int32_t>(a.micro_batch), static_cast<int32_t>(a.segment)}};
    launch(s, unpack_kernel, dim3(blocks_for(start.rows, 1)), dim3(kThreads), params);
  });
}

}  // namespace findep
