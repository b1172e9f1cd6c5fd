// SPDX-License-Identifier: Apache-2.0
//
// Addresses in a paged cache: a sequence's token t lies in block
// block_table[t / block_size], at place t % block_size.

#ifndef FINDEP_COMMON_PAGED_H
#define FINDEP_COMMON_PAGED_H

#include "common/hd.h"

namespace findep {

// The slot of token t; block_table is the sequence's row.
FINDEP_HD int64_t paged_slot(const int32_t* block_table, int64_t block_size, int64_t t) {
  return static_cast<int64_t>(block_table[t / block_size]) * block_size + t % block_size;
}

// How many tokens row i of a piece of `rows` rows sees. The rows are the last
// of `context` tokens, and a token sees itself.
FINDEP_HD int64_t causal_visible(int64_t context, int64_t rows, int64_t i) { return context - rows + i + 1; }

}  // namespace findep

#endif  // FINDEP_COMMON_PAGED_H
