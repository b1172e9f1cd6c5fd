// SPDX-License-Identifier: Apache-2.0
//
// Packing of tokens for expert ranks, once per (token, rank), in three steps
// that a CPU runs in a loop and a GPU runs as kernels:
//
//   count   for every (rank, token) the pairs it has there (dispatch_count)
//   offset  exclusive sums over (rank, token), rank-major, of rows (1 where
//           there are pairs) and of pairs
//   pack    each (rank, token) writes its own row and pairs (dispatch_pack)
//
// No two (rank, token) write the same place, so the result does not depend on
// the order of execution.

#ifndef FINDEP_COMMON_DISPATCH_H
#define FINDEP_COMMON_DISPATCH_H

#include "common/hd.h"

namespace findep {

// The most rows n tokens can need.
FINDEP_HD int64_t dispatch_max_rows(int64_t n, int64_t top_k, int64_t ranks) {
  return n * (top_k < ranks ? top_k : ranks);
}

// How many of a token's top_k experts are in [from, to).
FINDEP_HD int64_t dispatch_count(const int32_t* experts, int64_t top_k, int64_t from, int64_t to) {
  int64_t count = 0;
  for (int64_t k = 0; k < top_k; ++k) count += experts[k] >= from && experts[k] < to ? 1 : 0;
  return count;
}

// Running totals: the next free row and pair.
struct DispatchOffset {
  int64_t row, pair;
};

// The totals after a (rank, token) with `count` pairs.
FINDEP_HD DispatchOffset dispatch_advance(DispatchOffset at, int64_t count) {
  return DispatchOffset{at.row + (count > 0 ? 1 : 0), at.pair + count};
}

// Writes the row and the pairs, in ascending order of the expert, of token t
// for the rank with the experts [from, to). `at` is its offset, `count` its
// number of pairs, not zero. pair_start[at.row] is the writer before's, except
// that of row 0, which is zero.
FINDEP_HD void dispatch_pack(const int32_t* experts, const float* weights, int64_t top_k, int64_t from, int64_t to,
                             int64_t t, DispatchOffset at, int64_t count, Column<int32_t> row_token,
                             Column<int32_t> pair_start, Column<int32_t> pair_expert, Column<float> pair_weight) {
  row_token[at.row] = static_cast<int32_t>(t);
  pair_start[at.row + 1] = static_cast<int32_t>(at.pair + count);
  int64_t placed = 0;
  for (int64_t k = 0; k < top_k; ++k) {
    if (experts[k] < from || experts[k] >= to) continue;
    const int32_t local = static_cast<int32_t>(experts[k] - from);
    int64_t i = at.pair + placed++;
    // Insertion: top_k is small, and equal experts keep their order.
    for (; i > at.pair && pair_expert[i - 1] > local; --i) {
      pair_expert[i] = pair_expert[i - 1];
      pair_weight[i] = pair_weight[i - 1];
    }
    pair_expert[i] = local;
    pair_weight[i] = weights[k];
  }
}

}  // namespace findep

#endif  // FINDEP_COMMON_DISPATCH_H
