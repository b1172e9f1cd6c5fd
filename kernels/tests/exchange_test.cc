// SPDX-License-Identifier: Apache-2.0
//
// Messages between ranks: what is packed for the expert ranks and unpacked on one
// of them is what dispatch said, whatever the routing; what is not a message of
// this place counts as empty and is told; and nothing is written outside.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "common/dispatch.h"
#include "common/exchange.h"
#include "common/failure.h"
#include "cuda/pool.h"

namespace findep {
namespace {

using Ints = std::vector<int32_t>;

Column<const int32_t> column(const Ints& v) { return {v.data(), 1}; }

// Dispatch of n random tokens for ranks of two experts each.
struct Dispatched {
  Ints row_start{0}, row_token, pair_start{0}, pair_expert, pair_weight;
};

Dispatched dispatch(std::mt19937& random, int64_t n, int64_t top_k, int64_t ranks) {
  std::vector<Ints> experts(static_cast<size_t>(n));
  for (Ints& e : experts) {
    while (static_cast<int64_t>(e.size()) < top_k) {
      const int32_t candidate = static_cast<int32_t>(random() % static_cast<uint64_t>(2 * ranks));
      if (std::find(e.begin(), e.end(), candidate) == e.end()) e.push_back(candidate);
    }
    std::sort(e.begin(), e.end());
  }
  Dispatched d;
  for (int64_t e = 0; e < ranks; ++e) {
    for (int64_t t = 0; t < n; ++t) {
      const size_t before = d.pair_expert.size();
      for (const int32_t expert : experts[static_cast<size_t>(t)]) {
        if (expert / 2 != e) continue;
        d.pair_expert.push_back(expert % 2);
        d.pair_weight.push_back(static_cast<int32_t>(1000 * t + expert));
      }
      if (d.pair_expert.size() == before) continue;
      d.row_token.push_back(static_cast<int32_t>(t));
      d.pair_start.push_back(static_cast<int32_t>(d.pair_expert.size()));
    }
    d.row_start.push_back(static_cast<int32_t>(d.row_token.size()));
  }
  return d;
}

TEST(Exchange, PacksWhatDispatchSays) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    const auto below = [&](int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); };
    const int64_t n = 1 + below(6), ranks = 1 + below(4), top_k = 1 + below(2 * ranks);
    const Dispatched d = dispatch(random, n, top_k, ranks);
    const int64_t pairs = n * top_k;
    for (int64_t e = 0; e < ranks; ++e) {
      const PackSpan s = pack_span(column(d.row_start), column(d.pair_start), e, n, pairs, static_cast<int64_t>(d.row_token.size()));
      const size_t rank = static_cast<size_t>(e);
      ASSERT_EQ(s.rows, d.row_start[rank + 1] - d.row_start[rank]);
      const auto word = [&](int64_t i) {
        return pack_word(s, i, n, pairs, column(d.pair_start), column(d.pair_expert), column(d.pair_weight));
      };
      ASSERT_EQ(word(0), 0);
      for (int64_t r = 0; r < n; ++r) ASSERT_LE(word(r), word(r + 1));
      for (int64_t r = s.rows; r <= n; ++r) ASSERT_EQ(word(r), s.pairs) << "places without a row have no pairs";
      for (int64_t k = 0; k < s.pairs; ++k) {
        ASSERT_EQ(word(n + 1 + k), d.pair_expert[static_cast<size_t>(s.pair + k)]);
        ASSERT_EQ(word(n + 1 + pairs + k), d.pair_weight[static_cast<size_t>(s.pair + k)]);
      }
      ASSERT_EQ(word(n + 1 + s.pairs), s.pairs < pairs ? -1 : word(n + 1 + pairs));
    }
  }
}

TEST(Exchange, CutsWhatExceedsItsRoom) {
  const Ints row_start{0, 5, 4}, pair_start{0, 2, 4, 6, 8, 10};
  const PackSpan s = pack_span(column(row_start), column(pair_start), 0, 2, 3, 5);
  EXPECT_EQ(s.rows, 2);
  EXPECT_EQ(s.pairs, 3);
  EXPECT_EQ(pack_span(column(row_start), column(pair_start), 1, 2, 3, 5).rows, 0) << "starts that go back hold nothing";
}

TEST(Exchange, OnlyMessagesOfThePlaceCount) {
  const MessagePlace at{3, 1, 2};
  const auto counts = [&](Ints header, int64_t capacity) {
    header.resize(kHeaderWords);
    return message_counts(header.data(), at, capacity, 2 * capacity);
  };
  EXPECT_FALSE(counts({4, 7, 3, 1, 2}, 4).wrong);
  EXPECT_EQ(counts({4, 7, 3, 1, 2}, 4).pairs, 7);
  EXPECT_FALSE(counts({0, 0, 3, 1, 2}, 4).wrong);
  EXPECT_FALSE(counts({9, 9, 9, 9, 9}, 0).wrong) << "nothing is sent where there is no room";
  for (const Ints& wrong : {Ints{4, 7, 2, 1, 2}, {4, 7, 3, 0, 2}, {4, 7, 3, 1, 1}, {5, 7, 3, 1, 2}, {4, 9, 3, 1, 2}, {4, 3, 3, 1, 2}, {-1, 0, 3, 1, 2}}) {
    EXPECT_TRUE(counts(wrong, 4).wrong);
    EXPECT_EQ(counts(wrong, 4).rows + counts(wrong, 4).pairs, 0);
  }
}

TEST(Exchange, FindsTheRankOfARow) {
  std::mt19937 random(2);
  for (int round = 0; round < 1000; ++round) {
    Ints first{0};
    const size_t ranks = 1 + random() % 9;
    for (size_t a = 0; a < ranks; ++a) first.push_back(first.back() + static_cast<int32_t>(random() % 4));
    for (int32_t r = 0; r < first.back(); ++r) {
      const int64_t a = rank_of_row(column(first), static_cast<int64_t>(ranks), r);
      ASSERT_LE(first[static_cast<size_t>(a)], r);
      ASSERT_GT(first[static_cast<size_t>(a) + 1], r);
    }
    int64_t offset = 0;
    for (size_t a = 0; a < ranks; ++a) {
      ASSERT_EQ(pairs_offset(column(first), static_cast<int64_t>(a), 3), offset);
      const int64_t capacity = first[a + 1] - first[a];
      offset += pair_words(capacity, 3 * capacity);
    }
  }
}

TEST(MemoryPool, HandsOutDisjointRangesAndJoinsThemAgain) {
  std::mt19937 random(3);
  MemoryPool pool(1 << 20);
  std::vector<std::pair<uint64_t, uint64_t>> taken;
  for (int i = 0; i < 20000; ++i) {
    if (random() % 5 < 3) {
      const uint64_t bytes = random() % 40000;
      try {
        const uint64_t at = pool.take(bytes);
        ASSERT_EQ(at % MemoryPool::kAlignment, 0u);
        ASSERT_LE(at + bytes, pool.bytes());
        for (const auto& [from, size] : taken) ASSERT_TRUE(at + bytes <= from || from + size <= at) << "overlap";
        taken.emplace_back(at, bytes == 0 ? 1 : bytes);
      } catch (const Failure& f) {
        ASSERT_EQ(f.status, FINDEP_MEMORY_EXCEEDED);
      }
    } else if (!taken.empty()) {
      const size_t k = random() % taken.size();
      pool.give(taken[k].first);
      taken.erase(taken.begin() + static_cast<int64_t>(k));
    }
  }
  for (const auto& range : taken) pool.give(range.first);
  EXPECT_EQ(pool.used(), 0u);
  EXPECT_EQ(pool.take(1 << 20), 0u) << "the whole is one piece again";
}

TEST(MemoryPool, SaysHowMuchIsMissing) {
  MemoryPool pool(1000);
  EXPECT_EQ(pool.bytes(), 768u) << "whole pieces only";
  pool.take(300);
  try {
    pool.take(400);
    FAIL() << "there is no room";
  } catch (const Failure& f) {
    EXPECT_EQ(f.status, FINDEP_MEMORY_EXCEEDED);
    EXPECT_NE(f.text.find("needs 400 bytes more, but of the pool's 768 bytes 512 are in use"), std::string::npos) << f.text;
  }
  EXPECT_THROW(pool.take(~uint64_t{0}), Failure);
  pool.give(12345);  // not one of its own
  EXPECT_EQ(pool.used(), 512u);
  EXPECT_THROW(MemoryPool(0).take(0), Failure);
}

}  // namespace
}  // namespace findep
