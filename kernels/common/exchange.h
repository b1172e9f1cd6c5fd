// SPDX-License-Identifier: Apache-2.0
//
// Index arithmetic of what travels between ranks: messages of a fixed size with
// a varying number of rows, because a transfer's size must be known without
// asking the device. See PackArgs and UnpackArgs in tasklist.h.
//
// A message to or from one rank has three parts: a header of 16 words (rows,
// pairs, layer, micro-batch, segment, zeros), `capacity` rows, and the pairs:
// capacity+1 places where each row's begin, then pair_capacity experts, then as
// many weights. Rows beyond the count have no pairs and any content.

#ifndef FINDEP_COMMON_EXCHANGE_H
#define FINDEP_COMMON_EXCHANGE_H

#include "common/hd.h"

namespace findep {

constexpr int64_t kHeaderWords = 16;

FINDEP_HD int64_t pair_words(int64_t capacity, int64_t pair_capacity) { return capacity + 1 + 2 * pair_capacity; }

FINDEP_HD int64_t clamp(int64_t value, int64_t most) { return value < 0 ? 0 : value < most ? value : most; }

// What is packed for one rank: rows [row, row+rows) of the segment's and their
// pairs, cut to what the message has room for.
struct PackSpan {
  int64_t row, rows, pair, pairs;
};

FINDEP_HD PackSpan pack_span(const Column<const int32_t>& row_start, const Column<const int32_t>& pair_start, int64_t e,
                             int64_t capacity, int64_t pair_capacity, int64_t all_rows) {
  const int64_t first = clamp(row_start[e], all_rows);
  const int64_t rows = clamp(clamp(row_start[e + 1], all_rows) - first, capacity);
  const int64_t pair = pair_start[first];
  return PackSpan{first, rows, pair, clamp(pair_start[first + rows] - pair, pair_capacity)};
}

// The word of a message's pairs at place i, from the segment's. Weights are
// copied as bits.
FINDEP_HD int32_t pack_word(const PackSpan& s, int64_t i, int64_t capacity, int64_t pair_capacity,
                            const Column<const int32_t>& pair_start, const Column<const int32_t>& pair_expert,
                            const Column<const int32_t>& pair_weight_bits) {
  if (i <= capacity) return static_cast<int32_t>(i < s.rows ? clamp(pair_start[s.row + i] - s.pair, s.pairs) : s.pairs);
  const int64_t k = i - capacity - 1;
  if (k < pair_capacity) return k < s.pairs ? pair_expert[s.pair + k] : -1;
  return k - pair_capacity < s.pairs ? pair_weight_bits[s.pair + k - pair_capacity] : 0;
}

// Where a received message belongs.
struct MessagePlace {
  int32_t layer, micro_batch, segment;
};

// Word i of the header of a message with so many rows and pairs.
FINDEP_HD int32_t header_word(int64_t i, int64_t rows, int64_t pairs, const MessagePlace& at) {
  return i == 0   ? static_cast<int32_t>(rows)
         : i == 1 ? static_cast<int32_t>(pairs)
         : i == 2 ? at.layer
         : i == 3 ? at.micro_batch
         : i == 4 ? at.segment
                  : 0;
}

// A header's counts, if it is a message of this place and fits its room; else
// nothing, which `wrong` tells.
struct MessageCounts {
  int64_t rows, pairs;
  bool wrong;
};

FINDEP_HD MessageCounts message_counts(const int32_t* header, const MessagePlace& at, int64_t capacity, int64_t pair_capacity) {
  // Nothing is sent where there is room for nothing.
  if (capacity == 0) return MessageCounts{0, 0, false};
  const int64_t rows = header[0], pairs = header[1];
  const bool right = header[2] == at.layer && header[3] == at.micro_batch && header[4] == at.segment && rows >= 0 &&
                     rows <= capacity && pairs >= rows && pairs <= pair_capacity;
  return right ? MessageCounts{rows, pairs, false} : MessageCounts{0, 0, true};
}

// The rank whose rows hold row r: first[a] <= r < first[a+1].
FINDEP_HD int64_t rank_of_row(const Column<const int32_t>& first, int64_t ranks, int64_t r) {
  int64_t low = 0, high = ranks - 1;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (first[middle] <= r) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Where rank a's pairs begin among the words of all ranks' messages.
FINDEP_HD int64_t pairs_offset(const Column<const int32_t>& first, int64_t a, int64_t top_k) {
  const int64_t rows = first[a];
  return rows + a + 2 * top_k * rows;
}

}  // namespace findep

#endif  // FINDEP_COMMON_EXCHANGE_H
