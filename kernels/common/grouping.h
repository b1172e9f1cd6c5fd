// SPDX-License-Identifier: Apache-2.0
//
// Sorting of received (row, expert) pairs by expert. Pairs arrive by row, so a
// stable counting sort by expert leaves the rows of each expert ascending:
// count the pairs of each expert, sum the counts, place each pair at its
// expert's start plus the number of earlier pairs of that expert.

#ifndef FINDEP_COMMON_GROUPING_H
#define FINDEP_COMMON_GROUPING_H

#include "common/hd.h"

namespace findep {

// The row of pair p: the last r in [0, rows) with pair_start[r] <= p; rows
// without pairs are skipped by taking the last. p must be smaller than
// pair_start[rows].
FINDEP_HD int64_t grouping_row_of(Column<const int32_t> pair_start, int64_t rows, int64_t p) {
  int64_t low = 0, high = rows;  // pair_start[low] <= p < pair_start[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (pair_start[middle] <= p) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// How many of the pairs [0, p) use the same expert as pair p. A GPU computes
// it by ballots within a block; the loop is its definition.
FINDEP_HD int64_t grouping_rank_of(Column<const int32_t> pair_expert, int64_t p) {
  int64_t rank = 0;
  for (int64_t i = 0; i < p; ++i) rank += pair_expert[i] == pair_expert[p] ? 1 : 0;
  return rank;
}

// The whole sort in sequence. group_start has experts+1 places.
FINDEP_HD void grouping_sort(Column<const int32_t> pair_start, Column<const int32_t> pair_expert,
                             Column<const float> pair_weight, int64_t rows, int64_t experts,
                             Column<int32_t> group_start, Column<int32_t> group_row, Column<float> group_weight) {
  for (int64_t e = 0; e <= experts; ++e) group_start[e] = 0;
  const int64_t pairs = pair_start[rows];
  for (int64_t p = 0; p < pairs; ++p) group_start[pair_expert[p] + 1] += 1;
  for (int64_t e = 0; e < experts; ++e) group_start[e + 1] += group_start[e];
  // group_start[e] serves as the cursor of expert e; the last step moves every
  // cursor, which then stands at the next start, one place back.
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t p = pair_start[r]; p < pair_start[r + 1]; ++p) {
      const int32_t at = group_start[pair_expert[p]]++;
      group_row[at] = static_cast<int32_t>(r);
      group_weight[at] = pair_weight[p];
    }
  }
  for (int64_t e = experts; e > 0; --e) group_start[e] = group_start[e - 1];
  group_start[0] = 0;
}

}  // namespace findep

#endif  // FINDEP_COMMON_GROUPING_H
