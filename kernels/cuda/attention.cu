// SPDX-License-Identifier: Apache-2.0
//
// attention: causal, over a paged cache, for GQA and for the absorbed form of
// MLA (values are then the first columns of keys). One block per query row and
// head, over keys and values in F32 or BF16, in one pass with a running maximum and sum (Milakov and Gimelshein,
// "Online normalizer calculation for softmax"). For chunks of 128 tokens:
//   1. each thread finds the slot of one token
//   2. each warp takes tokens in turn: score = q k, the columns over its lanes
//   3. new maximum, weights e^(score - maximum), sum
//   4. each thread rescales and adds up its columns of the values
// Straightforward rather than quick: heads that share a KV head read it each on
// their own, and decoding does not split the context over blocks. A library's
// kernels (FlashInfer) are to take its place.

#include "common/grouping.h"
#include "common/paged.h"
#include "cuda/device.cuh"

namespace findep {

namespace {

constexpr int kThreads = 128;
constexpr int kChunk = kThreads;  // tokens
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMaxHeads = 65535;

// T is the cache's element type.
template <typename T>
struct AttentionParams {
  View<float> out, q;
  View<T> keys, values;
  Column<const int32_t> query_start, context_length;
  View<int32_t> block_table;
  int64_t pieces, group, key_dim, value_dim, block_size;
  float scale;
};

FINDEP_HD int64_t attention_shared_floats(int64_t key_dim, int64_t value_dim) { return key_dim + value_dim; }

// The slot of a token, or -1 where the table leads out of the cache.
template <typename T>
__device__ int64_t attention_slot(const AttentionParams<T>& p, int64_t piece, int64_t token) {
  if (token / p.block_size >= p.block_table.cols) return -1;
  const int64_t slot = paged_slot(p.block_table.row(piece), p.block_size, token);
  return slot >= 0 && slot < p.keys.rows ? slot : -1;
}

// Step 2 for `count` tokens; what lies nowhere gets no weight.
template <typename T>
__device__ void attention_scores(const AttentionParams<T>& p, const float* q, const int64_t* slots, int64_t kv_head,
                                 int count, float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int t = static_cast<int>(threadIdx.x) / kWarp; t < count; t += kWarps) {
    float sum = 0;
    if (slots[t] >= 0) {
      const T* key = p.keys.row(slots[t]) + kv_head * p.key_dim;
      for (int64_t c = lane; c < p.key_dim; c += kWarp) sum = fmaf(q[c], widen(key[c]), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) scores[t] = slots[t] >= 0 ? sum : -INFINITY;
  }
}

// Step 4: result = result * factor + weights * values.
template <typename T>
__device__ void attention_values(const AttentionParams<T>& p, const float* weights, const int64_t* slots, int64_t kv_head,
                                 int count, float factor, float* result) {
  for (int64_t c = threadIdx.x; c < p.value_dim; c += kThreads) {
    float sum = result[c] * factor;
    for (int t = 0; t < count; ++t) {
      if (slots[t] >= 0) sum = fmaf(weights[t], widen(p.values.row(slots[t])[kv_head * p.value_dim + c]), sum);
    }
    result[c] = sum;
  }
}

// One query row and head over its visible tokens.
template <typename T>
__device__ void attention_row(const AttentionParams<T>& p, int64_t piece, int64_t visible, int64_t row, int64_t head,
                              float* q, float* result) {
  __shared__ float scores[kChunk], scratch[kWarps];
  __shared__ int64_t slots[kChunk];
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t kv_head = head / p.group;
  for (int64_t c = tid; c < p.key_dim; c += kThreads) q[c] = p.q.row(row)[head * p.key_dim + c] * p.scale;
  for (int64_t c = tid; c < p.value_dim; c += kThreads) result[c] = 0;
  float highest = -INFINITY, total = 0;
  for (int64_t token = 0; token < visible; token += kChunk) {
    const int count = static_cast<int>(visible - token < kChunk ? visible - token : kChunk);
    if (tid < count) slots[tid] = attention_slot(p, piece, token + tid);
    __syncthreads();
    attention_scores(p, q, slots, kv_head, count, scores);
    __syncthreads();
    const float score = tid < count ? scores[tid] : -INFINITY;
    const float now = fmaxf(highest, block_max(score, scratch));
    // All scores so far are minus infinity (or NaN, which must spread).
    const float offset = now == -INFINITY ? 0.0f : now;
    const float factor = expf(highest - offset), weight = tid < count ? expf(score - offset) : 0.0f;
    total = total * factor + block_sum(weight, scratch);
    highest = now;
    scores[tid] = weight;
    __syncthreads();
    attention_values(p, scores, slots, kv_head, count, factor, result);
    __syncthreads();
  }
  float* out = p.out.row(row) + head * p.value_dim;
  for (int64_t c = tid; c < p.value_dim; c += kThreads) out[c] = result[c] / total;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionParams<T> p) {
  FINDEP_DYNAMIC_SHARED(float, memory);
  for (int64_t row = blockIdx.x; row < p.q.rows && row < p.query_start[p.pieces]; row += gridDim.x) {
    const int64_t piece = grouping_row_of(p.query_start, p.pieces, row);
    const int64_t start = p.query_start[piece], length = p.query_start[piece + 1] - start;
    const int64_t context = p.context_length[piece], most = p.block_table.cols * p.block_size;
    const int64_t seen = causal_visible(context, length, row - start);
    attention_row(p, piece, seen < most ? seen : most, row, blockIdx.y, memory, memory + p.key_dim);
  }
}

template <typename T>
void check(const findep_attention_args& a, const AttentionParams<T>& p) {
  require_size("heads", a.heads, 1);
  require_size("kv_heads", a.kv_heads, 1);
  require_size("key_dim", a.key_dim, 1);
  require_size("value_dim", a.value_dim, 1);
  require_size("block_size", a.block_size, 1);
  FINDEP_REQUIRE(a.heads % a.kv_heads == 0, "heads %lld must be a multiple of kv_heads %lld",
                 static_cast<long long>(a.heads), static_cast<long long>(a.kv_heads));
  require_shape("q", p.q.rows, p.q.cols, p.q.rows, a.heads * a.key_dim);
  require_shape("out", p.out.rows, p.out.cols, p.q.rows, a.heads * a.value_dim);
  require_shape("keys", p.keys.rows, p.keys.cols, p.keys.rows, a.kv_heads * a.key_dim);
  require_shape("values", p.values.rows, p.values.cols, p.keys.rows, a.kv_heads * a.value_dim);
  require_at_least("block_table", p.block_table.rows, 1, p.pieces, 1);
  const int64_t bytes = attention_shared_floats(a.key_dim, a.value_dim) * static_cast<int64_t>(sizeof(float));
  if (bytes > kSharedBytes - 4096 || a.heads > kMaxHeads) {
    FINDEP_FAIL(FINDEP_UNSUPPORTED, "%lld heads with keys of %lld and values of %lld exceed what a block can hold",
                static_cast<long long>(a.heads), static_cast<long long>(a.key_dim),
                static_cast<long long>(a.value_dim));
  }
}

template <typename T>
void attend(findep_stream& s, const findep_attention_args& a, const View<T>& keys, const View<T>& values) {
  const View<int32_t> context = i32("context_length", a.context_length);
  const View<int32_t> start = i32_vector("query_start", a.query_start, context.rows + 1);
  AttentionParams<T> p{f32("out", a.out),      f32("q", a.q),        keys, values, start.const_column(), context.const_column(),
                       i32("block_table", a.block_table), context.rows, 1,    a.key_dim, a.value_dim, a.block_size, a.scale};
  check(a, p);
  if (p.q.rows == 0 || p.pieces == 0) return;
  p.group = a.heads / a.kv_heads;
  launch(s, attention_kernel<T>, dim3(blocks_for(p.q.rows, 1), static_cast<unsigned>(a.heads)), dim3(kThreads), p,
         static_cast<size_t>(attention_shared_floats(a.key_dim, a.value_dim)) * sizeof(float));
}

}  // namespace

findep_status attention(findep_stream* stream, const findep_attention_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_attention_args& a) {
    if (a.keys.dtype == FINDEP_BF16) {
      attend(s, a, bf16("keys", a.keys), bf16("values", a.values));
    } else {
      attend(s, a, f32("keys", a.keys), f32("values", a.values));
    }
  });
}

}  // namespace findep
