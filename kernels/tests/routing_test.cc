// SPDX-License-Identifier: Apache-2.0
//
// kernels/common: routing, packing and grouping, by examples and against
// definitions written with containers and sorting.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "common/dispatch.h"
#include "common/grouping.h"
#include "common/router.h"

namespace findep {
namespace {

template <typename T>
Column<T> column(std::vector<T>& v) {
  return Column<T>{v.data(), 1};
}

template <typename T>
Column<const T> const_column(const std::vector<T>& v) {
  return Column<const T>{v.data(), 1};
}

TEST(Router, OrderIsTotal) {
  const float values[] = {NAN, -INFINITY, -1, 0, -0.0f, 1, INFINITY, NAN};
  const int64_t count = 8;
  for (int64_t i = 0; i < count; ++i) {
    EXPECT_FALSE(router_before(values[i], i, values[i], i));
    for (int64_t j = 0; j < count; ++j) {
      if (i != j) {
        EXPECT_NE(router_before(values[i], i, values[j], j), router_before(values[j], j, values[i], i)) << i << " " << j;
      }
    }
  }
  EXPECT_TRUE(router_before(-INFINITY, 5, NAN, 1));
  EXPECT_TRUE(router_before(1, 2, 1, 3));
}

TEST(Router, GroupScores) {
  const float group[] = {1, 5, NAN, 3};
  EXPECT_EQ(router_group_score(group, 4, false), 5);
  EXPECT_EQ(router_group_score(group, 4, true), 8);
  EXPECT_EQ(router_group_score(group, 1, true), 1);
}

// The definition: sort all competing experts.
std::vector<int32_t> select_by_sorting(const std::vector<float>& s, int64_t top_k, int64_t groups, int64_t keep, bool top2) {
  const int64_t size = static_cast<int64_t>(s.size()) / groups;
  auto order = [](std::vector<int32_t> v, const std::vector<float>& by) {
    std::sort(v.begin(), v.end(), [&](int32_t a, int32_t b) {
      return router_before(by[static_cast<size_t>(a)], a, by[static_cast<size_t>(b)], b);
    });
    return v;
  };
  std::vector<float> scores;
  std::vector<int32_t> all(static_cast<size_t>(groups));
  for (int64_t g = 0; g < groups; ++g) scores.push_back(router_group_score(s.data() + g * size, size, top2));
  std::iota(all.begin(), all.end(), 0);
  all = order(all, scores);
  std::vector<int32_t> experts;
  for (int64_t g = 0; g < keep; ++g) {
    for (int64_t e = 0; e < size; ++e) experts.push_back(static_cast<int32_t>(all[static_cast<size_t>(g)] * size + e));
  }
  experts = order(experts, s);
  experts.resize(static_cast<size_t>(top_k));
  return experts;
}

TEST(Router, SelectsLikeSorting) {
  std::mt19937 rng(1);
  for (int round = 0; round < 2000; ++round) {
    const int64_t groups = 1 + rng() % 8, size = 1 + rng() % 6, keep = 1 + rng() % groups;
    const int64_t top_k = 1 + rng() % (keep * size);
    std::vector<float> s(static_cast<size_t>(groups * size));
    // Few distinct values make many ties.
    for (float& v : s) v = rng() % 20 == 0 ? NAN : static_cast<float>(rng() % 5) - 2;
    const bool top2 = rng() % 2 == 0;
    std::vector<int32_t> chosen(static_cast<size_t>(top_k), -1);
    std::vector<float> room(static_cast<size_t>(groups));
    router_select(chosen.data(), top_k, s.data(), groups * size, groups, keep, top2, room.data());
    ASSERT_EQ(chosen, select_by_sorting(s, top_k, groups, keep, top2)) << "round " << round;
  }
}

struct Packed {
  std::vector<int32_t> row_start, row_token, pair_start, pair_expert;
  std::vector<float> pair_weight;
};

Packed pack(const std::vector<int32_t>& experts, const std::vector<float>& weights, int64_t n, int64_t k,
            const std::vector<int32_t>& first) {
  const int64_t ranks = static_cast<int64_t>(first.size()) - 1, rows = dispatch_max_rows(n, k, ranks);
  Packed p;
  p.row_start.assign(static_cast<size_t>(ranks + 1), 0);
  p.row_token.assign(static_cast<size_t>(rows), -1);
  p.pair_start.assign(static_cast<size_t>(rows + 1), 0);
  p.pair_expert.assign(static_cast<size_t>(n * k), -1);
  p.pair_weight.assign(static_cast<size_t>(n * k), -1);
  // In the order of a GPU: all counts, all offsets, then the packing backwards.
  std::vector<int64_t> counts;
  std::vector<DispatchOffset> offsets;
  DispatchOffset at{0, 0};
  for (int64_t e = 0; e < ranks; ++e) {
    for (int64_t t = 0; t < n; ++t) {
      counts.push_back(dispatch_count(&experts[static_cast<size_t>(t * k)], k, first[static_cast<size_t>(e)],
                                      first[static_cast<size_t>(e + 1)]));
      offsets.push_back(at);
      at = dispatch_advance(at, counts.back());
    }
    p.row_start[static_cast<size_t>(e + 1)] = static_cast<int32_t>(at.row);
  }
  for (int64_t i = ranks * n - 1; i >= 0; --i) {
    const int64_t e = i / n, t = i % n;
    if (counts[static_cast<size_t>(i)] == 0) continue;
    dispatch_pack(&experts[static_cast<size_t>(t * k)], &weights[static_cast<size_t>(t * k)], k,
                  first[static_cast<size_t>(e)], first[static_cast<size_t>(e + 1)], t, offsets[static_cast<size_t>(i)],
                  counts[static_cast<size_t>(i)], column(p.row_token), column(p.pair_start), column(p.pair_expert),
                  column(p.pair_weight));
  }
  return p;
}

TEST(Dispatch, Example) {
  const Packed p = pack({3, 0, 1, 0, 2, 3}, {50, 25, 75, 100, 200, 400}, 3, 2, {0, 2, 4});
  EXPECT_EQ(p.row_start, (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(p.row_token, (std::vector<int32_t>{0, 1, 0, 2, -1, -1}));
  EXPECT_EQ((std::vector<int32_t>(p.pair_start.begin(), p.pair_start.begin() + 5)), (std::vector<int32_t>{0, 1, 3, 4, 6}));
  EXPECT_EQ(p.pair_expert, (std::vector<int32_t>{0, 0, 1, 1, 0, 1}));
  EXPECT_EQ(p.pair_weight, (std::vector<float>{25, 100, 75, 50, 200, 400}));
}

// Every (token, expert, weight) arrives exactly once, at its rank, in order.
TEST(Dispatch, KeepsEveryPair) {
  std::mt19937 rng(2);
  for (int round = 0; round < 500; ++round) {
    const int64_t total = 1 + rng() % 40, n = rng() % 20, k = 1 + rng() % std::min<int64_t>(total, 8);
    std::vector<int32_t> first{0};
    while (first.back() < total) {
      first.push_back(std::min<int32_t>(static_cast<int32_t>(total), first.back() + static_cast<int32_t>(rng() % 12)));
    }
    std::vector<int32_t> experts, all(static_cast<size_t>(total));
    std::vector<float> weights;
    std::iota(all.begin(), all.end(), 0);
    for (int64_t t = 0; t < n; ++t) {
      std::shuffle(all.begin(), all.end(), rng);
      experts.insert(experts.end(), all.begin(), all.begin() + k);
      for (int64_t i = 0; i < k; ++i) weights.push_back(static_cast<float>(t * 1000 + experts[static_cast<size_t>(t * k + i)]));
    }
    const Packed p = pack(experts, weights, n, k, first);
    int64_t pairs = 0;
    for (size_t e = 0; e + 1 < first.size(); ++e) {
      int32_t token = -1;
      for (int32_t r = p.row_start[e]; r < p.row_start[e + 1]; ++r) {
        ASSERT_GT(p.row_token[static_cast<size_t>(r)], token) << "rows of a rank are ascending tokens";
        token = p.row_token[static_cast<size_t>(r)];
        ASSERT_LT(p.pair_start[static_cast<size_t>(r)], p.pair_start[static_cast<size_t>(r) + 1]) << "a row without pairs";
        int32_t expert = -1;
        for (int32_t i = p.pair_start[static_cast<size_t>(r)]; i < p.pair_start[static_cast<size_t>(r) + 1]; ++i, ++pairs) {
          ASSERT_GT(p.pair_expert[static_cast<size_t>(i)], expert) << "experts of a row ascend";
          expert = p.pair_expert[static_cast<size_t>(i)];
          ASSERT_EQ(p.pair_weight[static_cast<size_t>(i)], static_cast<float>(token * 1000 + first[e] + expert));
        }
      }
    }
    ASSERT_EQ(pairs, n * k);
  }
}

TEST(Grouping, SortsByExpertThenRow) {
  std::mt19937 rng(3);
  for (int round = 0; round < 500; ++round) {
    const int64_t rows = rng() % 20, experts = 1 + rng() % 9;
    std::vector<int32_t> starts{0}, pair_expert;
    std::vector<float> pair_weight;
    std::map<std::pair<int32_t, int32_t>, float> want;  // (expert, row)
    for (int32_t r = 0; r < rows; ++r) {
      for (int32_t e = 0; e < experts; ++e) {
        if (rng() % 3 != 0) continue;
        pair_expert.push_back(e);
        pair_weight.push_back(static_cast<float>(rng() % 1000));
        want[{e, r}] = pair_weight.back();
      }
      starts.push_back(static_cast<int32_t>(pair_expert.size()));
    }
    std::vector<int32_t> group_start(static_cast<size_t>(experts + 1), -1), group_row(pair_expert.size(), -1);
    std::vector<float> group_weight(pair_expert.size(), -1);
    grouping_sort(const_column(starts), const_column(pair_expert), const_column(pair_weight), rows, experts,
                  column(group_start), column(group_row), column(group_weight));
    ASSERT_EQ(group_start[0], 0);
    ASSERT_EQ(group_start.back(), static_cast<int32_t>(pair_expert.size()));
    size_t at = 0;
    for (const auto& [key, weight] : want) {
      ASSERT_GE(static_cast<int32_t>(at), group_start[static_cast<size_t>(key.first)]);
      ASSERT_LT(static_cast<int32_t>(at), group_start[static_cast<size_t>(key.first) + 1]);
      ASSERT_EQ(group_row[at], key.second);
      ASSERT_EQ(group_weight[at], weight);
      ++at;
    }
    // The parallel form: where each pair goes, and whose it is.
    for (int64_t p = 0; p < static_cast<int64_t>(pair_expert.size()); ++p) {
      const int64_t place = group_start[static_cast<size_t>(pair_expert[static_cast<size_t>(p)])] +
                            grouping_rank_of(const_column(pair_expert), p);
      ASSERT_EQ(group_row[static_cast<size_t>(place)], grouping_row_of(const_column(starts), rows, p));
    }
  }
}

}  // namespace
}  // namespace findep
