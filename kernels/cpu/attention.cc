// SPDX-License-Identifier: Apache-2.0
//
// Causal attention over a paged cache, in one pass with a running maximum and
// sum (Milakov and Gimelshein, "Online normalizer calculation for softmax").
// The work is cut into tiles: some query rows of one piece with all the query
// heads of one KV head. A tile walks the context in chunks of tokens:
//   1. gather the chunk's keys and values from their slots
//   2. scores = Q K^T
//   3. per row: mask, new maximum, weights e^(score - maximum), rescale
//   4. result += weights V
// A tile never reads slots beyond its own piece's context. Weights of tokens
// that a row does not see are zero, so a value that is infinite or NaN reaches
// the rows of the same tile that precede it, and no other sequence.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/paged.h"
#include "cpu/gemm.h"
#include "cpu/vector.h"

namespace findep {

namespace {

constexpr int64_t kChunk = 128;     // tokens
constexpr int64_t kTileRows = 128;  // query rows times query heads

struct Tile {
  int64_t piece, kv_head, from, to;  // query rows [from, to) of q
};

struct Attention {
  const findep_attention_args& a;
  View<float> out, q, keys, values;
  View<int32_t> query_start, context_length, block_table;
  int64_t group = 0;  // query heads per KV head

  void check() const;
  void check_piece(int64_t piece) const;
  std::vector<Tile> tiles() const;
  int64_t scratch_floats() const;
  void compute(const Tile& tile, float* memory) const;
  void gather_queries(const Tile& tile, View<float> to) const;
  void gather_chunk(const Tile& tile, int64_t token, View<float> k, View<float> v) const;
  void store(const Tile& tile, View<float> result, const float* total) const;
};

void Attention::check() const {
  require_size("heads", a.heads, 1);
  require_size("kv_heads", a.kv_heads, 1);
  require_size("key_dim", a.key_dim, 1);
  require_size("value_dim", a.value_dim, 1);
  require_size("block_size", a.block_size, 1);
  FINDEP_REQUIRE(a.heads % a.kv_heads == 0, "heads %lld must be a multiple of kv_heads %lld",
                 static_cast<long long>(a.heads), static_cast<long long>(a.kv_heads));
  require_shape("q", q.rows, q.cols, q.rows, a.heads * a.key_dim);
  require_shape("out", out.rows, out.cols, q.rows, a.heads * a.value_dim);
  require_shape("keys", keys.rows, keys.cols, keys.rows, a.kv_heads * a.key_dim);
  require_shape("values", values.rows, values.cols, keys.rows, a.kv_heads * a.value_dim);
  require_at_least("block_table", block_table.rows, 1, context_length.rows, 1);
  require_starts("query_start", query_start, context_length.rows, q.rows);
  for (int64_t s = 0; s < context_length.rows; ++s) check_piece(s);
}

void Attention::check_piece(int64_t s) const {
  const int64_t rows = query_start.column()[s + 1] - query_start.column()[s], context = context_length.column()[s];
  if (rows == 0) return;
  FINDEP_REQUIRE(context >= rows, "piece %lld has %lld rows but only %lld tokens of context", static_cast<long long>(s),
                 static_cast<long long>(rows), static_cast<long long>(context));
  FINDEP_REQUIRE((context - 1) / a.block_size < block_table.cols,
                 "piece %lld has %lld tokens of context but its block table has %lld blocks of %lld",
                 static_cast<long long>(s), static_cast<long long>(context), static_cast<long long>(block_table.cols),
                 static_cast<long long>(a.block_size));
  for (int64_t b = 0; b * a.block_size < context; ++b) {
    const int64_t last = std::min(context, (b + 1) * a.block_size) - 1;
    FINDEP_REQUIRE(block_table.row(s)[b] >= 0 && paged_slot(block_table.row(s), a.block_size, last) < keys.rows,
                   "block_table[%lld,%lld] is block %d, beyond the cache's %lld slots", static_cast<long long>(s),
                   static_cast<long long>(b), block_table.row(s)[b], static_cast<long long>(keys.rows));
  }
}

std::vector<Tile> Attention::tiles() const {
  const int64_t step = std::max<int64_t>(1, kTileRows / group);
  std::vector<Tile> list;
  for (int64_t s = 0; s < context_length.rows; ++s) {
    const int64_t end = query_start.column()[s + 1];
    for (int64_t from = query_start.column()[s]; from < end; from += step) {
      for (int64_t h = 0; h < a.kv_heads; ++h) list.push_back(Tile{s, h, from, std::min(end, from + step)});
    }
  }
  return list;
}

int64_t Attention::scratch_floats() const {
  const int64_t rows = std::max(kTileRows, group);
  return rows * (a.key_dim + kChunk + a.value_dim + 2) + kChunk * (a.key_dim + a.value_dim);
}

// Row i*group + g of `to` is query head g of row i, scaled.
void Attention::gather_queries(const Tile& tile, View<float> to) const {
  for (int64_t i = 0; i < to.rows; ++i) {
    const int64_t head = tile.kv_head * group + i % group;
    memcpy(to.row(i), q.row(tile.from + i / group) + head * a.key_dim, static_cast<size_t>(a.key_dim) * sizeof(float));
    scale(to.row(i), a.scale, a.key_dim);
  }
}

void Attention::gather_chunk(const Tile& tile, int64_t token, View<float> k, View<float> v) const {
  const int32_t* blocks = block_table.row(tile.piece);
  for (int64_t t = 0; t < k.rows; ++t) {
    const int64_t slot = paged_slot(blocks, a.block_size, token + t);
    memcpy(k.row(t), keys.row(slot) + tile.kv_head * a.key_dim, static_cast<size_t>(a.key_dim) * sizeof(float));
    memcpy(v.row(t), values.row(slot) + tile.kv_head * a.value_dim, static_cast<size_t>(a.value_dim) * sizeof(float));
  }
}

void Attention::store(const Tile& tile, View<float> result, const float* total) const {
  for (int64_t i = 0; i < result.rows; ++i) {
    const int64_t head = tile.kv_head * group + i % group;
    float* to = out.row(tile.from + i / group) + head * a.value_dim;
    memcpy(to, result.row(i), static_cast<size_t>(a.value_dim) * sizeof(float));
    scale(to, 1.0f / total[i], a.value_dim);
  }
}

// One row's step 3: turns `scores`, of which it sees `seen`, into weights.
void soften(float* scores, int64_t seen, int64_t count, float* highest, float* total, float* result, int64_t dim) {
  const float before = *highest;
  const float now = max_row(scores, before, seen);
  // All scores so far are minus infinity (or NaN, which must spread).
  const float offset = now == -std::numeric_limits<float>::infinity() ? 0.0f : now;
  const float factor = std::exp(before - offset);
  *total = *total * factor + exp_row(scores, offset, seen);
  *highest = now;
  std::fill(scores + seen, scores + count, 0.0f);
  if (factor != 1.0f) scale(result, factor, dim);
}

void Attention::compute(const Tile& tile, float* memory) const {
  const int64_t rows = (tile.to - tile.from) * group;
  auto take = [&memory](int64_t r, int64_t c) {
    const View<float> v{memory, r, c, c};
    memory += r * c;
    return v;
  };
  const View<float> queries = take(rows, a.key_dim), result = take(rows, a.value_dim), scores = take(rows, kChunk);
  const View<float> k = take(kChunk, a.key_dim), v = take(kChunk, a.value_dim);
  float *highest = take(1, rows).data, *total = take(1, rows).data;
  gather_queries(tile, queries);
  std::fill_n(result.data, rows * a.value_dim, 0.0f);
  std::fill_n(highest, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(total, rows, 0.0f);

  const int64_t start = query_start.column()[tile.piece], length = query_start.column()[tile.piece + 1] - start;
  const int64_t context = context_length.column()[tile.piece];
  const int64_t end = causal_visible(context, length, tile.to - 1 - start);
  for (int64_t token = 0; token < end; token += kChunk) {
    const int64_t count = std::min(kChunk, end - token);
    const View<float> kc{k.data, count, a.key_dim, a.key_dim}, vc{v.data, count, a.value_dim, a.value_dim};
    const View<float> sc{scores.data, rows, count, kChunk};
    gather_chunk(tile, token, kc, vc);
    sgemm_nt(sc, queries, kc);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t visible = causal_visible(context, length, tile.from - start + i / group) - token;
      soften(sc.row(i), std::clamp<int64_t>(visible, 0, count), count, &highest[i], &total[i], result.row(i),
             a.value_dim);
    }
    sgemm_nn_add(result, sc, vc);
  }
  store(tile, result, total);
}

}  // namespace

findep_status attention(findep_stream* stream, const findep_attention_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_attention_args& a) {
    const View<int32_t> context = i32("context_length", a.context_length);
    Attention t{a,
                f32("out", a.out),
                f32("q", a.q),
                f32("keys", a.keys),
                f32("values", a.values),
                i32_vector("query_start", a.query_start, context.rows + 1),
                context,
                i32("block_table", a.block_table)};
    t.check();
    t.group = a.heads / a.kv_heads;
    const std::vector<Tile> tiles = t.tiles();
    double flops = 0;
    for (const Tile& tile : tiles) {
      flops += 2.0 * static_cast<double>((tile.to - tile.from) * t.group) * context.column()[tile.piece] *
               static_cast<double>(a.key_dim + a.value_dim);
    }
    s.pool.run(static_cast<int64_t>(tiles.size()), worth_sharing(flops), [&](int64_t i, int worker) {
      t.compute(tiles[static_cast<size_t>(i)], scratch(s, worker, t.scratch_floats()));
    });
  });
}

}  // namespace findep
